#include "train/cuda/nccl_communicator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"

namespace vlm::train {
namespace {

// A collective of a small bucket takes tens of microseconds: look often at first, then leave the core to others.
constexpr int kEagerLooks = 1000;
constexpr absl::Duration kLookEvery = absl::Microseconds(100);
// A peer that has finished an operation may leave while this rank's device still works on it.
constexpr absl::Duration kGraceAfterPeerLeft = absl::Seconds(2);
constexpr absl::Duration kLeaveDeadline = absl::Seconds(10);

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::Status CudaStatus(cudaError_t result, std::string_view call) {
  if (result == cudaSuccess) return absl::OkStatus();
  const std::string message = absl::StrCat("CUDA call failed: ", View(call), ", ", cudaGetErrorString(result));
  if (result == cudaErrorMemoryAllocation) return OutOfMemoryError(message);
  return absl::InternalError(message);
}

absl::Status CheckCudaDevice(int device) {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result != cudaSuccess || count == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "NCCL needs a GPU and CUDA finds none; check the driver (CUDA 13 or later) and CUDA_VISIBLE_DEVICES, or start "
        "the worker with --cpu-slots: ",
        result == cudaSuccess ? "no device is visible" : cudaGetErrorString(result)));
  }
  if (device < 0 || device >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("no such CUDA device among the visible ones: index ", device, ", visible ", count));
  }
  return absl::OkStatus();
}

NcclCommunicator::~NcclCommunicator() {
  if (communicator_ == nullptr) return;
  // Peers may still read what this rank's part of the last operation left in its buffers: leave together.
  const absl::Duration end = options_.clock->Monotonic() + kLeaveDeadline;
  ncclResult_t state = ncclCommFinalize(communicator_);
  MutexLock lock(&mutex_);
  while (state == ncclInProgress && options_.clock->Monotonic() < end && failed_.ok()) {
    changed_.WaitFor(&mutex_, kLookEvery);
    if (ncclCommGetAsyncError(communicator_, &state) != ncclSuccess) break;
  }
  (void)(state == ncclSuccess ? ncclCommDestroy(communicator_) : ncclCommAbort(communicator_));
}

absl::Status NcclCommunicator::Connect() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  constexpr std::string_view kWhat = "connecting";
  const ncclResult_t result =
      ncclCommInitRankConfig(&communicator_, options_.world, options_.id, options_.rank, &config);
  if (result != ncclSuccess && result != ncclInProgress) return Fail(NcclStatus(result, kWhat));
  return Await(kWhat, [&] { return Taken(kWhat); });
}

absl::Status NcclCommunicator::Start(std::string_view what, const std::function<ncclResult_t(ncclComm_t)>& start) {
  VLM_RETURN_IF_ERROR(status());
  const ncclResult_t result = start(communicator_);
  if (result != ncclSuccess && result != ncclInProgress) return Fail(NcclStatus(result, what));
  return Await(what, [&] { return Taken(what); });
}

absl::Status NcclCommunicator::Finish(std::string_view what, cudaEvent_t event) {
  VLM_RETURN_IF_ERROR(status());
  return Await(what, [&]() -> absl::StatusOr<bool> {
    const cudaError_t result = cudaEventQuery(event);
    if (result == cudaErrorNotReady) return false;
    VLM_RETURN_IF_ERROR(CudaStatus(result, what));
    return true;
  });
}

void NcclCommunicator::Interrupt(const absl::Status& status) {
  MutexLock lock(&mutex_);
  if (failed_.ok()) failed_ = status;
  changed_.NotifyAll();
}

absl::Status NcclCommunicator::status() const {
  MutexLock lock(&mutex_);
  return failed_;
}

absl::Status NcclCommunicator::NcclStatus(ncclResult_t result, std::string_view what) const {
  const std::string message = absl::StrCat("NCCL failed in ", View(what), ": ", ncclGetErrorString(result), ", ",
                                           ncclGetLastError(communicator_));
  if (absl::StrContains(message, "out of memory")) return OutOfMemoryError(message);  // it has no result of its own
  if (result == ncclRemoteError) return absl::UnavailableError(message);
  if (result == ncclInvalidArgument || result == ncclInvalidUsage) return absl::InvalidArgumentError(message);
  return absl::InternalError(message);
}

absl::StatusOr<bool> NcclCommunicator::Taken(std::string_view what) const {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &state);
  if (asked != ncclSuccess) return NcclStatus(asked, what);
  if (state == ncclInProgress) return false;
  if (state != ncclSuccess) return NcclStatus(state, what);
  return true;
}

absl::Status NcclCommunicator::Await(std::string_view what, const std::function<absl::StatusOr<bool>()>& done) {
  absl::Duration end = options_.clock->Monotonic() + options_.deadline;
  absl::Status late = absl::DeadlineExceededError(
      absl::StrCat("a peer did not join within ", absl::FormatDuration(options_.deadline), ": ", View(what)));
  bool left = false;
  for (int looks = 0;; ++looks) {
    const absl::StatusOr<bool> now = done();
    if (!now.ok()) return Fail(now.status());
    const absl::Status interrupted = status();
    if (!interrupted.ok()) return Fail(interrupted);
    if (*now) return absl::OkStatus();
    if (looks < kEagerLooks) continue;
    // The device may fail or a peer leave while an event never comes.
    const absl::StatusOr<bool> healthy = Taken(what);
    if (!healthy.ok()) return Fail(healthy.status());
    if (const absl::Status peers = options_.peers_health(); !left && !peers.ok()) {
      left = true;
      late = Annotate(peers, what);
      end = std::min(end, options_.clock->Monotonic() + kGraceAfterPeerLeft);
    }
    if (options_.clock->Monotonic() >= end) return Fail(late);
    MutexLock lock(&mutex_);
    if (failed_.ok()) changed_.WaitFor(&mutex_, kLookEvery);
  }
}

absl::Status NcclCommunicator::Fail(const absl::Status& status) {
  Interrupt(status);
  // Ends the kernels that wait for a peer; without it the device would never be idle again.
  if (communicator_ != nullptr) (void)ncclCommAbort(std::exchange(communicator_, nullptr));
  return this->status();
}

}  // namespace vlm::train
