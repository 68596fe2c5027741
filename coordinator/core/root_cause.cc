#include "coordinator/core/root_cause.h"

namespace vlm::coordinator {

v1::FailureClass ClassOfExit(int32_t exit_code, int32_t signal) {
  if (signal != 0) return v1::FAILURE_CLASS_CRASH;
  switch (exit_code) {
    case 0:
      return v1::FAILURE_CLASS_UNSPECIFIED;
    case 64:
      return v1::FAILURE_CLASS_USER_ERROR;
    case 65:
      return v1::FAILURE_CLASS_BAD_DATA;
    case 66:
      return v1::FAILURE_CLASS_DAMAGED_CHECKPOINT;
    case 69:
      return v1::FAILURE_CLASS_PEER_LOST;
    case 74:
      return v1::FAILURE_CLASS_STORAGE;
    case 78:
      return v1::FAILURE_CLASS_INCOMPATIBLE;
    case 79:
      return v1::FAILURE_CLASS_NUMERIC;
    default:
      return v1::FAILURE_CLASS_CRASH;
  }
}

bool IsEarlierCause(const Failure& other, const Failure& current) {
  const bool other_noise = other.failure == v1::FAILURE_CLASS_PEER_LOST;
  const bool current_noise = current.failure == v1::FAILURE_CLASS_PEER_LOST;
  if (other_noise != current_noise) return current_noise;
  if (other.at + other.error < current.at - current.error) return true;
  if (current.at + current.error < other.at - other.error) return false;
  if (other.failure != current.failure) return other.failure < current.failure;
  return other.rank < current.rank;
}

bool RootCause::Add(const Failure& failure, absl::Duration reported_at, absl::Duration window) {
  if (!root_.has_value()) {
    root_ = failure;
    first_report_ = reported_at;
    return true;
  }
  if (reported_at - first_report_ > window || !IsEarlierCause(failure, *root_)) return false;
  root_ = failure;
  return true;
}

}  // namespace vlm::coordinator
