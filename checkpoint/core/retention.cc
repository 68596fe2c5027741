#include "checkpoint/core/retention.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace vlm::checkpoint {

std::vector<StepToDelete> DecideRetention(std::vector<StepSummary> steps, const RetentionPolicy& policy) {
  std::sort(steps.begin(), steps.end(), [](const StepSummary& a, const StepSummary& b) { return a.key > b.key; });
  std::vector<StepToDelete> deleted;
  const uint32_t keep_last = std::max<uint32_t>(policy.keep_last, 1);
  uint32_t complete = 0;
  bool verified_seen = false;
  // Newest first. The oldest kept COMPLETE step is what a DAMAGED one must be older than.
  std::vector<const StepSummary*> damaged;
  const StepSummary* oldest_kept = nullptr;
  for (const StepSummary& step : steps) {
    if (!step.complete) {
      damaged.push_back(&step);
      continue;
    }
    const bool newest_verified = step.verified && !verified_seen;
    verified_seen = verified_seen || step.verified;
    const bool counted = complete++ < keep_last;
    const bool periodic = policy.keep_every != 0 && step.key.step % policy.keep_every == 0;
    if (counted || periodic || newest_verified || step.held) {
      oldest_kept = &step;
    } else {
      deleted.push_back({step.key, absl::StrCat("beyond the newest ", keep_last, " steps")});
    }
  }
  for (const StepSummary* step : damaged) {
    if (!step->held && oldest_kept != nullptr && step->key < oldest_kept->key) {
      deleted.push_back({step->key, "damaged, and every kept step is newer"});
    }
  }
  return deleted;
}

}  // namespace vlm::checkpoint
