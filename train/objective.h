// Losses as functions of the head's per-target results. Every loss is a sum divided by the global target weight of
// the whole optimizer step, never a mean of means.
#ifndef VLM_TRAIN_OBJECTIVE_H_
#define VLM_TRAIN_OBJECTIVE_H_

#include <ATen/core/Tensor.h>

#include <memory>

#include "base/status.h"
#include "model/graph.h"

namespace vlm::train {

// Sums over all micro-batches of the step, from its header.
struct GlobalCounts {
  double target_weight = 0;
};

// d loss / d result for each target, fp32 [K]. Known before the forward, so a head may do forward and backward of a
// chunk in one pass: d loss / d logits = logp * onehot + (lse - logp) * softmax + mean_logit / vocabulary.
struct TokenCoefficients {
  at::Tensor logp_K, lse_K, mean_logit_K;
};

// Thread-compatible, immutable.
class Objective {
 public:
  virtual ~Objective() = default;
  virtual TokenCoefficients Known(const model::MicroBatch& batch, const GlobalCounts& global) const = 0;
  // `results`: logp_K, lse_K, mean_logit_K (fp32), in this order. Summed on the host in fp64 in order of k.
  virtual double Loss(const model::Values& results, const model::MicroBatch& batch,
                      const GlobalCounts& global) const = 0;
};

// Cross-entropy with label smoothing s and target weights w over a vocabulary of V (as torch's cross_entropy):
//   loss = sum_k w_k / T * ((1 - s) (-logp_k) + s (lse_k - mean_logit_k)),  T = global target weight.
// INVALID_ARGUMENT unless 0 <= s < 1.
absl::StatusOr<std::unique_ptr<Objective>> NewCrossEntropy(double label_smoothing);

}  // namespace vlm::train

#endif  // VLM_TRAIN_OBJECTIVE_H_
