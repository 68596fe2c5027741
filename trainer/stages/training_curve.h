// The curve of a training stage as its checkpoints hold it: bounded, however many steps are trained.
#ifndef VLM_TRAINER_STAGES_TRAINING_CURVE_H_
#define VLM_TRAINER_STAGES_TRAINING_CURVE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace vlm::trainer {

// One line a step. Of more steps than `points_max`, those stay that lie a power of two apart, the first among them, and
// the newest step. What stays depends on the newest step alone, so that a resumed run has the same curve. Not
// thread-safe.
class TrainingCurve {
 public:
  static constexpr size_t kPointsMax = 1 << 14;  // about 3 MB in every checkpoint; a plot shows far fewer

  explicit TrainingCurve(size_t points_max = kPointsMax) : points_max_(points_max) {}

  // Steps count from 1 and grow by one. `line` is a JSON object with a newline after it.
  void Add(uint64_t step, std::string line);
  // In place of what was added: the contents of a checkpoint, also of one that holds every step. DATA_LOSS for a line
  // without a step, or one that does not follow the step before it.
  absl::Status Restore(std::string_view contents);

  std::string Contents() const;

 private:
  struct Point {
    uint64_t step;
    std::string line;
  };

  const size_t points_max_;
  uint64_t stride_ = 1;
  std::vector<Point> points_;  // by step; all but the newest lie on the stride
};

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_TRAINING_CURVE_H_
