#include "train/cuda/cuda_library.h"

#include <ATen/Context.h>
#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "train/cuda/nccl_entry.h"

namespace vlm::train {
namespace {

constexpr char kTorchCudaLibrary[] = "libtorch_cuda.so";

// Never closed: LibTorch registers kernels by static objects, and NCCL has threads.
absl::StatusOr<void*> Open(const std::string& library, int flags) {
  void* const handle = dlopen(library.c_str(), flags);
  if (handle != nullptr) return handle;
  const char* const reason = dlerror();
  return absl::NotFoundError(absl::StrCat("cannot open ", library, ": ", reason == nullptr ? "no reason" : reason));
}

}  // namespace

absl::Status LoadCudaDevices() {
  // Global: the kernels' registrations and NCCL's users must see one copy.
  const absl::StatusOr<void*> opened = Open(kTorchCudaLibrary, RTLD_NOW | RTLD_GLOBAL);
  if (!opened.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "LibTorch's CUDA half does not load; run scripts/setup --cuda on this machine, or start its worker "
        "with --cpu-slots: ",
        opened.status().message()));
  }
  if (!at::hasCUDA()) {
    return absl::FailedPreconditionError(
        "no CUDA device is usable by this process; check the driver (CUDA 13 or later) and CUDA_VISIBLE_DEVICES, or "
        "start the worker with --cpu-slots");
  }
  return absl::OkStatus();
}

absl::StatusOr<const NcclBackend*> LoadNcclBackend(const std::string& library) {
  absl::StatusOr<void*> opened = Open(library, RTLD_NOW | RTLD_LOCAL);
  if (!opened.ok()) {
    return absl::NotFoundError(
        absl::StrCat("the NCCL backend does not load; run scripts/setup --cuda and build with -DVLM_CUDA=ON: ",
                     opened.status().message()));
  }
  const auto entry = reinterpret_cast<NcclEntry*>(dlsym(*opened, kNcclEntrySymbol));
  if (entry == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("the NCCL backend is of another build, rebuild it: ", library, " has no ", kNcclEntrySymbol));
  }
  return entry();
}

}  // namespace vlm::train
