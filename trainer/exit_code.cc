#include "trainer/exit_code.h"

#include <optional>
#include <string>

#include "absl/strings/cord.h"
#include "base/out_of_memory.h"

namespace vlm::trainer {
namespace {

constexpr char kPayload[] = "vlm.trainer.exit_code";

}  // namespace

absl::Status WithExitCode(const absl::Status& status, ExitCode code) {
  if (status.ok() || status.GetPayload(kPayload).has_value()) return status;
  absl::Status marked = status;
  marked.SetPayload(kPayload, absl::Cord(std::to_string(static_cast<int>(code))));
  return marked;
}

ExitCode ExitCodeOf(const absl::Status& status) {
  if (IsOutOfMemory(status)) return ExitCode::kOutOfMemory;
  if (const auto payload = status.GetPayload(kPayload); payload.has_value()) {
    return static_cast<ExitCode>(std::stoi(std::string(*payload)));
  }
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ExitCode::kOk;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kDeadlineExceeded:  // of a wait for a peer or a service: who waited is not at fault
      return ExitCode::kPeerLost;
    case absl::StatusCode::kDataLoss:
      return ExitCode::kDamagedCheckpoint;
    case absl::StatusCode::kResourceExhausted:
      return ExitCode::kStorage;
    case absl::StatusCode::kFailedPrecondition:
      return ExitCode::kIncompatible;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
      return ExitCode::kUserError;
    default:
      return ExitCode::kCrash;
  }
}

}  // namespace vlm::trainer
