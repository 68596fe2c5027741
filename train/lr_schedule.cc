#include "train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

namespace vlm::train {

absl::Status CheckLrSchedule(const LrScheduleOptions& options) {
  if (options.total_steps < 1) {
    return absl::InvalidArgumentError("learning rate schedule needs at least one step: total_steps is " +
                                      std::to_string(options.total_steps));
  }
  if (options.warmup_steps < 0 || options.warmup_steps > options.total_steps) {
    return absl::InvalidArgumentError("learning rate warm-up must lie within the stage: warmup is " +
                                      std::to_string(options.warmup_steps) + " of " +
                                      std::to_string(options.total_steps) + " steps");
  }
  if (!(options.final_fraction >= 0 && options.final_fraction <= 1)) {
    return absl::InvalidArgumentError("final fraction of the learning rate must be within 0 and 1: " +
                                      std::to_string(options.final_fraction));
  }
  return absl::OkStatus();
}

double LrFactor(const LrScheduleOptions& options, int64_t step) {
  if (step < options.warmup_steps) return static_cast<double>(step) / static_cast<double>(options.warmup_steps);
  if (options.shape == LrShape::kConstant) return 1.0;
  const int64_t length = std::max<int64_t>(options.total_steps - options.warmup_steps, 1);
  const double progress = std::clamp(static_cast<double>(step - options.warmup_steps) / length, 0.0, 1.0);
  const double remaining =
      options.shape == LrShape::kLinear ? 1.0 - progress : 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  return options.final_fraction + (1.0 - options.final_fraction) * remaining;
}

}  // namespace vlm::train
