#include "coordinator/core/retry_policy.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "coordinator/core/transition_table.h"

namespace vlm::coordinator {
namespace {

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

int32_t Charge(v1::FailureClass failure, v1::StageRecord* stage) {
  for (v1::SpentRecord& spent : *stage->mutable_spent()) {
    if (spent.failure() == failure) {
      spent.set_times(spent.times() + 1);
      return spent.times();
    }
  }
  v1::SpentRecord* spent = stage->add_spent();
  spent->set_failure(failure);
  spent->set_times(1);
  return 1;
}

}  // namespace

void ResetBudget(v1::StageRecord* stage) {
  stage->clear_spent();
  stage->set_no_progress(0);
  stage->set_committed_since(false);
}

RetryDecision ChargeFailure(const v1::JobRecord& job, v1::FailureClass failure, v1::StageRecord* stage) {
  if (stage->committed_since()) ResetBudget(stage);
  const int32_t times = Charge(failure, stage);
  if (failure != v1::FAILURE_CLASS_WORKER_LOST) stage->set_no_progress(stage->no_progress() + 1);
  const std::string what = Word(failure);
  const v1::RetryRecord* rule = nullptr;
  for (const v1::RetryRecord& candidate : job.retry()) {
    if (candidate.failure() == failure) rule = &candidate;
  }
  if (rule == nullptr) return {false, absl::ZeroDuration(), absl::StrCat("no retry rule for ", what)};
  if (rule->limited() && times > rule->limit()) {
    return {false, absl::ZeroDuration(),
            rule->limit() == 0 ? absl::StrCat("no retry after ", what)
                               : absl::StrCat("all ", rule->limit(), " retries after ", what, " are spent")};
  }
  if (stage->no_progress() > job.no_progress_max()) {
    return {false, absl::ZeroDuration(),
            absl::StrCat("nothing was committed in ", stage->no_progress(), " attempts in a row")};
  }
  RetryDecision decision;
  decision.retry = true;
  const absl::Duration base = ToDuration(rule->base());
  if (base > absl::ZeroDuration()) {
    // Bounded: 2^60 of anything is above every max.
    const double factor = std::pow(std::max(1.0, rule->factor()), std::min(times - 1, 60));
    decision.wait = std::min(base * factor, std::max(base, ToDuration(rule->max())));
  }
  decision.reason = rule->limited() ? absl::StrCat("retry ", times, " of ", rule->limit(), " after ", what)
                                    : absl::StrCat("retry ", times, " after ", what);
  return decision;
}

}  // namespace vlm::coordinator
