// What the ranks of each ZeRO level (Rajbhandari et al., arXiv:1910.02054) share among them: from zero 1 on the
// optimizer's state, from zero 2 on gradients, in zero 3 parameters.
#ifndef VLM_TRAIN_ZERO_LEVEL_H_
#define VLM_TRAIN_ZERO_LEVEL_H_

#include <vector>

#include "train/buckets.h"

namespace vlm::train {

enum class ZeroLevel { kZero0 = 0, kZero1 = 1, kZero2 = 2, kZero3 = 3 };

// Each rank has its part alone of accumulated gradients, masters and moments.
inline bool ShardsState(ZeroLevel level) { return level != ZeroLevel::kZero0; }
// A bucket's parameters are whole on a rank only while they are acquired.
inline bool ShardsParameters(ZeroLevel level, int world) { return level == ZeroLevel::kZero3 && world > 1; }
// Where backward writes a bucket's gradient: zero 1 keeps all of them, the others share memory between buckets.
inline SlotPlan SlotsOf(ZeroLevel level, const std::vector<BucketSpec>& buckets) {
  return level == ZeroLevel::kZero1 ? OwnSlots(buckets) : PlanSlots(buckets);
}

}  // namespace vlm::train

#endif  // VLM_TRAIN_ZERO_LEVEL_H_
