// Losses as functions of the head's per-target results. Every loss is a sum divided by the global target weight of
// the whole optimizer step, never a mean of means.
#ifndef VLM_TRAIN_OBJECTIVE_H_
#define VLM_TRAIN_OBJECTIVE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "base/status.h"
#include "model/graph.h"

namespace vlm::train {

// Sums over all micro-batches of the step, from its header.
struct GlobalCounts {
  double target_weight = 0;
};

// Thread-compatible, immutable.
class Objective {
 public:
  virtual ~Objective() = default;
  // The gradient with respect to the logits as coefficients, so that the head makes results and gradients in one pass;
  // nothing where the loss does not allow that.
  virtual std::optional<model::TokenCoefficients> Known(const model::MicroBatch& batch,
                                                        const GlobalCounts& global) const = 0;
  // The same as gradients of (logp_K, lse_K, mean_logit_K), fp32; undefined where 0 for all targets. For a head that
  // takes no coefficients.
  virtual model::Values Seeds(const model::MicroBatch& batch, const GlobalCounts& global) const = 0;
  // `results`: logp_K, lse_K, mean_logit_K (fp32), in this order. Summed on the host in fp64 in order of k.
  virtual double Loss(const model::Values& results, const model::MicroBatch& batch,
                      const GlobalCounts& global) const = 0;
};

// Cross-entropy with label smoothing s and target weights w over a vocabulary of V (as torch's cross_entropy):
//   loss = sum_k w_k / T * ((1 - s) (-logp_k) + s (lse_k - mean_logit_k)),  T = global target weight.
// INVALID_ARGUMENT unless 0 <= s < 1, and when s > 0 without a vocabulary.
absl::StatusOr<std::unique_ptr<Objective>> NewCrossEntropy(double label_smoothing, int64_t vocabulary);

}  // namespace vlm::train

#endif  // VLM_TRAIN_OBJECTIVE_H_
