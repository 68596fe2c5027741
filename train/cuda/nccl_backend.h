// Collectives between GPUs, behind an interface that every build has: NCCL itself is linked only to the shared object
// that implements it, so programs start on machines without CUDA.
#ifndef VLM_TRAIN_CUDA_NCCL_BACKEND_H_
#define VLM_TRAIN_CUDA_NCCL_BACKEND_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"
#include "train/collective.h"

namespace vlm::train {

struct NcclOptions {
  int device = 0;                                 // index among the devices that this process sees
  std::string unique_id;                          // NewUniqueId() of rank 0, the same on every rank
  absl::Duration deadline = kCollectiveDeadline;  // of each operation, connecting among them
  const Clock* clock = RealClock();               // outlives the collective
};

// Thread-safe; never destroyed.
class NcclBackend {
 public:
  virtual ~NcclBackend() = default;

  // 128 bytes by which the ranks of one attempt find each other; rank 0 posts them in the rendezvous.
  // FAILED_PRECONDITION when no GPU is usable, INTERNAL with NCCL's reason.
  virtual absl::StatusOr<std::string> NewUniqueId() const = 0;

  // A collective over tensors of the CUDA device `options.device`; Allocate returns memory of it. `host` connects the
  // same ranks: it carries bytes and barriers, and before every operation what each rank is about to do, so that
  // disagreement, a dead peer or an abort is a status and never a hang of the GPU.
  //
  // Operations wait on the host until the device is done with them, polling the deadline. They begin after what the
  // calling thread's current stream holds, and run on a stream of their own: work of another thread goes on beside.
  // Contributions are added in rank order, as everywhere (each comes separately, then one addition per rank).
  //
  // Needs LoadCudaDevices() (cuda_library.h). Collective. FAILED_PRECONDITION naming what is missing (GPU, driver);
  // INVALID_ARGUMENT for a wrong device or id; DEADLINE_EXCEEDED when a peer does not come.
  virtual absl::StatusOr<std::unique_ptr<Collective>> Connect(const NcclOptions& options,
                                                              std::unique_ptr<Collective> host) const = 0;
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_CUDA_NCCL_BACKEND_H_
