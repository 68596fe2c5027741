// AdamW on flat shards with parameter groups.
#ifndef VLM_TRAIN_ADAMW_H_
#define VLM_TRAIN_ADAMW_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/graph.h"
#include "train/buckets.h"
#include "train/parameter_store.h"

namespace vlm::train {

// How a rule's pattern names parameters (train/selection.h): SelectParameters, or SelectByGlob.
enum class Naming { kSelection, kGlob };

// Overrides for the parameters a pattern names; where several name one parameter the last wins.
struct GroupRule {
  std::string pattern;
  std::optional<double> lr, weight_decay;
  Naming naming = Naming::kSelection;
};

struct AdamWOptions {
  std::optional<double> lr;  // base rate of parameters no rule gives one; absent: every one needs a rule
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0;  // of matrices and embeddings; norms and biases have none unless a rule says so
  std::vector<GroupRule> rules;
};

struct ParameterGroup {
  double lr = 0, weight_decay = 0;
  friend bool operator==(const ParameterGroup&, const ParameterGroup&) = default;
};

// Elements [begin, end) of a bucket that one group updates; alignment gaps and padding belong to none.
struct GroupRange {
  int64_t begin = 0, end = 0;
  int32_t group = 0;
};

struct GroupTable {
  std::vector<ParameterGroup> groups;
  std::vector<int32_t> group_of_param;          // -1: frozen
  std::vector<std::vector<GroupRange>> ranges;  // by bucket, ascending; empty for frozen ones
  // One line per group: rate, decay, number of parameters and elements.
  std::string ToString(const model::Graph& graph) const;
};

// INVALID_ARGUMENT: a pattern that names no trainable parameter, a trainable parameter without a rate (the message
// names it), a negative or non-finite number, betas outside [0, 1).
absl::StatusOr<GroupTable> ResolveGroups(const model::Graph& graph, const std::vector<BucketSpec>& buckets,
                                         const AdamWOptions& options);

// The update of one step, as torch.optim.AdamW (torch/optim/adamw.py, single tensor), scalars in fp64 rounded once:
//   p *= 1 - lr wd;  m += (1 - b1) (g - m);  v = b2 v + (1 - b2) g g;
//   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps),   g = gradient * gradient_scale.
struct AdamWScalars {
  double lr = 0, weight_decay = 0, beta1 = 0, beta2 = 0, epsilon = 0;
  int64_t step = 1;           // t, from 1
  double gradient_scale = 1;  // the clipping coefficient
};

// 1-d fp32 tensors of one length; master and moments are written in place. Each element's result depends on its own
// inputs only, bit for bit: neither on the range's borders nor on threads.
void AdamWUpdate(const AdamWScalars& scalars, const at::Tensor& master, const at::Tensor& first_moment,
                 const at::Tensor& second_moment, const at::Tensor& gradient);

// One optimizer step over the buckets marked in `reached`: each one's step count rises by one, its groups are updated
// on this rank's shard, the store told. FAILED_PRECONDITION from the store.
struct OptimizerStep {
  const GroupTable* groups = nullptr;
  AdamWOptions options;
  double lr_factor = 1;  // of the schedule
  double gradient_scale = 1;
};
absl::Status ApplyAdamW(const OptimizerStep& step, const std::vector<bool>& reached, ParameterStore* store);

}  // namespace vlm::train

#endif  // VLM_TRAIN_ADAMW_H_
