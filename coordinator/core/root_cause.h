// Which of an attempt's failures came first: the others are its noise.
#ifndef VLM_COORDINATOR_CORE_ROOT_CAUSE_H_
#define VLM_COORDINATOR_CORE_ROOT_CAUSE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "vlm/v1/failure.pb.h"

namespace vlm::coordinator {

struct Failure {
  v1::FailureClass failure = v1::FAILURE_CLASS_UNSPECIFIED;
  absl::Duration at;     // on the coordinator's clock: arrival minus the report's age minus half a round trip
  absl::Duration error;  // of `at`, to both sides
  int32_t rank = -1;
  std::string message;
};

// The class of an exit that its worker did not class: the table of exit codes (vlm/v1/failure.proto).
// UNSPECIFIED for exit code 0 without a signal.
v1::FailureClass ClassOfExit(int32_t exit_code, int32_t signal);

// True when `other` is to be blamed rather than `current`: PEER_LOST never against another class; else the
// earlier one; when the errors overlap, the lower class, then the lower rank.
bool IsEarlierCause(const Failure& other, const Failure& current);

// The root cause of one attempt: the first report, and whatever is earlier within `window` after it.
class RootCause {
 public:
  // `reported_at`: arrival. False when the report came too late or is not earlier.
  bool Add(const Failure& failure, absl::Duration reported_at, absl::Duration window);
  const std::optional<Failure>& root() const { return root_; }
  absl::Duration first_report() const { return first_report_; }

 private:
  std::optional<Failure> root_;
  absl::Duration first_report_;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_ROOT_CAUSE_H_
