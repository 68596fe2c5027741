// Exit codes of vlm-trainer, by which the worker classes a failure (worker/core/exit_class.h).
#ifndef VLM_TRAINER_EXIT_CODE_H_
#define VLM_TRAINER_EXIT_CODE_H_

#include "base/status.h"

namespace vlm::trainer {

enum class ExitCode {
  kOk = 0,
  kUserError = 64,
  kBadData = 65,
  kDamagedCheckpoint = 66,
  kPeerLost = 69,
  kCrash = 70,
  kStorage = 74,
  kIncompatible = 78,
  kNumeric = 79,
  kOutOfMemory = 80,  // of a device, or of the heap; a kill by the kernel has no code of its own
};

// Marks an error with the code the process should end with; an inner mark stays. OK stays OK.
absl::Status WithExitCode(const absl::Status& status, ExitCode code);

// IsOutOfMemory (base/out_of_memory.h) out of memory, whatever else is marked; else the mark of the error, or what its
// status code suggests: UNAVAILABLE, ABORTED and DEADLINE_EXCEEDED peer lost, DATA_LOSS a damaged checkpoint,
// RESOURCE_EXHAUSTED storage, FAILED_PRECONDITION incompatible, INVALID_ARGUMENT and NOT_FOUND a user's error, all
// others a crash.
ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_EXIT_CODE_H_
