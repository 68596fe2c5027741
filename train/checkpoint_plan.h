// Which rank writes which bytes of a save, from the model's layout alone: for a store's saves
// (train/checkpoint_state.h) and for telling beforehand what a save needs.
#ifndef VLM_TRAIN_CHECKPOINT_PLAN_H_
#define VLM_TRAIN_CHECKPOINT_PLAN_H_

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/graph.h"
#include "train/buckets.h"
#include "train/checkpoint_state.h"

namespace vlm::train {

// All outlive the call.
struct StateLayout {
  const model::Graph& graph;
  const std::vector<BucketSpec>& buckets;
  at::ScalarType compute = at::kFloat;
  int world = 1;
};

// Pure. What PlanState of a store with this layout gives.
StatePlan PlanState(const StateLayout& layout, const StateOptions& options);

}  // namespace vlm::train

#endif  // VLM_TRAIN_CHECKPOINT_PLAN_H_
