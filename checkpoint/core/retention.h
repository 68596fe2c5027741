// Which steps of a stage go: a pure function, run after each commit.
#ifndef VLM_CHECKPOINT_CORE_RETENTION_H_
#define VLM_CHECKPOINT_CORE_RETENTION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/core/catalog_keys.h"

namespace vlm::checkpoint {

struct RetentionPolicy {
  uint32_t keep_last = 3;   // newest COMPLETE steps kept, beside held ones; at least 1
  uint64_t keep_every = 0;  // every step divisible by it is kept too; 0: none
};

struct StepSummary {
  StepKey key;
  bool complete = false;  // COMPLETE; else DAMAGED (WRITING and DELETING steps are not retention's)
  bool verified = false;
  bool held = false;  // any hold
};

struct StepToDelete {
  StepKey key;
  std::string reason;
};

// `steps` of one stage, in any order. Never names a held step, the newest COMPLETE one or the newest verified
// COMPLETE one. A DAMAGED step goes when every kept COMPLETE step is newer.
std::vector<StepToDelete> DecideRetention(std::vector<StepSummary> steps, const RetentionPolicy& policy);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_CORE_RETENTION_H_
