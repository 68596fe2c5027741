// Learning rate over optimizer steps.
#ifndef VLM_TRAIN_LR_SCHEDULE_H_
#define VLM_TRAIN_LR_SCHEDULE_H_

#include <cstdint>

#include "base/status.h"

namespace vlm::train {

enum class LrShape { kConstant, kLinear, kCosine };

struct LrScheduleOptions {
  LrShape shape = LrShape::kCosine;
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;    // of the stage, warm-up included
  double final_fraction = 0;  // of the base rate, reached at total_steps (linear and cosine)
};

// INVALID_ARGUMENT: warm-up outside [0, total], total < 1, final_fraction outside [0, 1].
absl::Status CheckLrSchedule(const LrScheduleOptions& options);

// What the base rate of each group is multiplied with in optimizer step `step`, counted from 1. Warm-up rises linearly
// to 1 at step warmup_steps; then constant, linear or half a cosine, as transformers' get_*_schedule_with_warmup with
// their step counted from 1. Skipped (non-finite) steps count. Requires valid options and step >= 1.
double LrFactor(const LrScheduleOptions& options, int64_t step);

}  // namespace vlm::train

#endif  // VLM_TRAIN_LR_SCHEDULE_H_
