// The language model's head at target positions: never the logits of a whole micro-batch.
//
// For target k with hidden state h_k (final norm applied) and logits l = W h_k over V entries:
//   logp_k = l[target_k] - lse_k,   lse_k = log sum exp l,   mean_k = mean l        (all fp32, softmax in fp32).
// dL/dl = a_k onehot(target_k) + b_k softmax(l) + c_k, with a = dL/dlogp, b = dL/dlse - dL/dlogp, c = dL/dmean / V.
// Work goes in chunks of targets, a function of V alone, so memory is bounded and the order of sums fixed.
#ifndef VLM_MODEL_OPS_TOKEN_LOSS_H_
#define VLM_MODEL_OPS_TOKEN_LOSS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/graph.h"

namespace vlm::model::ops {

struct HeadInput {
  at::Tensor hidden_KD, weight_VD;  // compute type
  at::Tensor target_id_K;           // int64
};
struct HeadResults {
  at::Tensor logp_K, lse_K, mean_logit_K;  // fp32; fp64 for fp64 inputs
};
struct HeadGradients {
  at::Tensor d_hidden_KD;  // undefined when not wanted
  at::Tensor d_weight_VD;  // fp32 or the compute type; undefined when not wanted, or when added into a slot
};

// The definition: all logits at once; differentiable. For tests and small inputs.
HeadResults HeadDefinition(const HeadInput& in);

// Forward only, chunked, without recording.
HeadResults HeadForward(const HeadInput& in);

// Which gradients to make. `weight_slot`: dL/dW is added there; else, if want_weight, returned.
struct HeadWanted {
  bool hidden = true;
  bool weight = true;
  at::Tensor weight_slot_VD;
};

// One pass per chunk when the coefficients are known beforehand: results and gradients together.
struct HeadPass {
  HeadResults results;
  HeadGradients gradients;
};
HeadPass HeadForwardBackward(const HeadInput& in, const TokenCoefficients& coefficients, const HeadWanted& wanted);

// Recomputes each chunk's logits from `in` and the saved lse.
HeadGradients HeadBackward(const HeadInput& in, const at::Tensor& lse_K, const TokenCoefficients& coefficients,
                           const HeadWanted& wanted);

// a, b, c from dL/dlogp, dL/dlse, dL/dmean (undefined: zero) for V entries.
TokenCoefficients CoefficientsFromGradients(const HeadResults& gradients, int64_t targets, int64_t vocabulary,
                                            const at::TensorOptions& options);

// Targets per chunk: logits of a chunk stay near 4 MiB of fp32.
int64_t TargetsPerChunk(int64_t vocabulary);

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_TOKEN_LOSS_H_
