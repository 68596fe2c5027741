// Whether a failed attempt is followed by another one, and after what wait.
#ifndef VLM_COORDINATOR_CORE_RETRY_POLICY_H_
#define VLM_COORDINATOR_CORE_RETRY_POLICY_H_

#include <string>

#include "absl/time/time.h"
#include "vlm/v1/record.pb.h"

namespace vlm::coordinator {

struct RetryDecision {
  bool retry = false;
  absl::Duration wait;
  std::string reason;  // "retry 2 of 5 after a crash"
};

// Charges one failure of this class to the stage's budget and decides. When the stage has committed something
// since the last charge, every budget is full again first. `wait` is base * factor^(n-1), at most max, for the
// n-th failure of the class in a row. No retry when the class's limit, or the job's limit of restarts in a row
// without a commit (lost workers not counted), is spent.
RetryDecision ChargeFailure(const v1::JobRecord& job, v1::FailureClass failure, v1::StageRecord* stage);

// Full budgets: a person's retry, or committed progress.
void ResetBudget(v1::StageRecord* stage);

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_RETRY_POLICY_H_
