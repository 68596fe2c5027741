// CUDA parts that are opened at run time, when an attempt was given a GPU. Thread-safe.
#ifndef VLM_TRAIN_CUDA_CUDA_LIBRARY_H_
#define VLM_TRAIN_CUDA_CUDA_LIBRARY_H_

#include <string>

#include "base/status.h"
#include "train/cuda/nccl_backend.h"

namespace vlm::train {

// Our shared object, beside the programs. libtorch_cuda.so comes with the torch wheel.
inline constexpr char kNcclLibrary[] = "libvlm_train_nccl.so";

// Makes at::kCUDA usable in this process: opens LibTorch's CUDA library and looks for a device. To be called before the
// process touches CUDA in any other way; later calls return at once. FAILED_PRECONDITION naming what is missing (the
// CUDA libraries, the driver, a visible device) and the remedy.
absl::Status LoadCudaDevices();

// Opens the shared object of the NCCL backend; the result lives as long as the process. NOT_FOUND when it, or NCCL
// itself, cannot be opened, with the loader's reason and the remedy. Needs no GPU.
absl::StatusOr<const NcclBackend*> LoadNcclBackend(const std::string& library = kNcclLibrary);

}  // namespace vlm::train

#endif  // VLM_TRAIN_CUDA_CUDA_LIBRARY_H_
