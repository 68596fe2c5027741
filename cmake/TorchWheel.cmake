# LibTorch from the torch wheel, declared by hand: the wheel's own CMake config demands a CUDA toolkit.
#
# vlm::torch carries headers and the CPU libraries. Everything is SYSTEM: the wheel ships old Protobuf
# headers, so no translation unit may include both torch and Protobuf.

set(VLM_WHEELS_DIR "${PROJECT_SOURCE_DIR}/.deps/wheels" CACHE PATH
    "Folder scripts/setup installs the torch wheel into")
set(_torch "${VLM_WHEELS_DIR}/torch")
if(NOT EXISTS "${_torch}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch not found in ${_torch}; run scripts/setup first, "
                      "or set VLM_WHEELS_DIR to the folder that holds the torch wheel")
endif()

add_library(vlm_torch INTERFACE)
add_library(vlm::torch ALIAS vlm_torch)
target_include_directories(vlm_torch SYSTEM INTERFACE
  "${_torch}/include" "${_torch}/include/torch/csrc/api/include"
  "${VLM_WHEELS_DIR}/nvidia/cu13/include")
target_link_libraries(vlm_torch INTERFACE
  "${_torch}/lib/libtorch_cpu.so" "${_torch}/lib/libc10.so")
target_link_options(vlm_torch INTERFACE
  "-Wl,-rpath,${_torch}/lib" "-Wl,-rpath,${VLM_WHEELS_DIR}/nvidia/cu13/lib"
  "-Wl,-rpath-link,${VLM_WHEELS_DIR}/nvidia/cu13/lib" "-Wl,--disable-new-dtags"
  "-Wl,--allow-shlib-undefined")

# vlm::nccl: what the shared object of the NCCL backend alone links. Of LibTorch's CUDA half only libc10_cuda.so
# (streams): it loads on machines without a GPU, and libtorch_cuda.so, which needs every CUDA library, is opened at
# run time by whoever was given a GPU.
if(VLM_CUDA)
  set(_nccl "${VLM_WHEELS_DIR}/nvidia/nccl")
  set(_cuda "${VLM_WHEELS_DIR}/nvidia/cu13")
  foreach(_needed "${_nccl}/include/nccl.h" "${_nccl}/lib/libnccl.so.2" "${_cuda}/include/crt/host_config.h"
                  "${_cuda}/include/nv/target" "${_cuda}/lib/libcudart.so.13" "${_torch}/lib/libc10_cuda.so")
    if(NOT EXISTS "${_needed}")
      message(FATAL_ERROR "VLM_CUDA needs ${_needed}; run scripts/setup --cuda first (or --tests, to build only), "
                          "or configure with -DVLM_CUDA=OFF")
    endif()
  endforeach()
  add_library(vlm_nccl INTERFACE)
  add_library(vlm::nccl ALIAS vlm_nccl)
  target_include_directories(vlm_nccl SYSTEM INTERFACE "${_nccl}/include" "${_cuda}/include")
  target_link_libraries(vlm_nccl INTERFACE
    vlm::torch "${_torch}/lib/libc10_cuda.so" "${_nccl}/lib/libnccl.so.2" "${_cuda}/lib/libcudart.so.13")
  target_link_options(vlm_nccl INTERFACE "-Wl,-rpath,${_nccl}/lib")
endif()
