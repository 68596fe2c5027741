// How the shared object of the NCCL backend is entered. Both sides are of one build.
#ifndef VLM_TRAIN_CUDA_NCCL_ENTRY_H_
#define VLM_TRAIN_CUDA_NCCL_ENTRY_H_

#include "train/cuda/nccl_backend.h"

namespace vlm::train {

inline constexpr char kNcclEntrySymbol[] = "vlm_train_nccl_backend";
using NcclEntry = const NcclBackend*();

}  // namespace vlm::train

#endif  // VLM_TRAIN_CUDA_NCCL_ENTRY_H_
