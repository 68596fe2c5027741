// One NCCL communicator of this process: every call ends by a deadline, an abort or NCCL's own error.
#ifndef VLM_TRAIN_CUDA_NCCL_COMMUNICATOR_H_
#define VLM_TRAIN_CUDA_NCCL_COMMUNICATOR_H_

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <functional>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"

namespace vlm::train {

// OK, OutOfMemoryError (base/out_of_memory.h), else INTERNAL with CUDA's words.
absl::Status CudaStatus(cudaError_t result, std::string_view call);
// FAILED_PRECONDITION naming what is missing unless `device` can be used; INVALID_ARGUMENT for a device that is none.
absl::Status CheckCudaDevice(int device);

// One thread at a time, but for Interrupt. After an error the communicator is gone and every call returns that error.
class NcclCommunicator {
 public:
  struct Options {
    int rank = 0, world = 1;
    ncclUniqueId id{};
    absl::Duration deadline;
    const Clock* clock = RealClock();
    // What else may end a wait: called while waiting, must not block.
    std::function<absl::Status()> peers_health;
  };
  explicit NcclCommunicator(Options options) : options_(std::move(options)) {}
  ~NcclCommunicator();  // waits for the peers to leave too, shortly
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  // Collective; on the calling thread's current device. Once, before everything else.
  absl::Status Connect();

  // Calls `start`, which enqueues NCCL work, and waits until NCCL has taken it (it may go on in the background).
  // `what` names the operation in errors.
  absl::Status Start(std::string_view what, const std::function<ncclResult_t(ncclComm_t)>& start);
  // Waits until the device has passed `event`.
  absl::Status Finish(std::string_view what, cudaEvent_t event);

  // From any thread: a wait that is on, and every later call, returns `status`.
  void Interrupt(const absl::Status& status);
  absl::Status status() const;

 private:
  absl::Status NcclStatus(ncclResult_t result, std::string_view what) const;
  absl::Status Await(std::string_view what, const std::function<absl::StatusOr<bool>()>& done);
  absl::Status Fail(const absl::Status& status);
  absl::StatusOr<bool> Taken(std::string_view what) const;

  const Options options_;
  ncclComm_t communicator_ = nullptr;
  mutable Mutex mutex_;
  CondVar changed_;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_CUDA_NCCL_COMMUNICATOR_H_
