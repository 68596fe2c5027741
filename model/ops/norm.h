// RMSNorm and LayerNorm over the last axis of x [N, D], statistics in fp32 (fp64 for fp64 inputs).
//
// RMSNorm (transformers, qwen2/modeling_qwen2.py, Qwen2RMSNorm): mean square in fp32, times rsqrt(. + eps), cast back
// to the type of x, THEN times weight. LayerNorm: torch.nn.functional.layer_norm.
// The backward passes sum the parameters' gradients over fixed chunks of rows, so the bits do not depend on the number
// of threads (ATen's own LayerNorm backward sums per thread).
#ifndef VLM_MODEL_OPS_NORM_H_
#define VLM_MODEL_OPS_NORM_H_

#include <ATen/core/Tensor.h>

namespace vlm::model::ops {

// The readable definition; differentiable.
at::Tensor RmsNorm(const at::Tensor& x_ND, const at::Tensor& weight_D, double eps);
at::Tensor LayerNorm(const at::Tensor& x_ND, const at::Tensor& weight_D, const at::Tensor& bias_D, double eps);

// What a backward pass needs of the forward pass. mean is undefined for RMSNorm.
struct Normalized {
  at::Tensor y_ND, mean_N, inverse_N;
};
// The same values as the definition up to rounding, without recording; hand-written on the CPU in fp32.
Normalized RmsNormForward(const at::Tensor& x_ND, const at::Tensor& weight_D, double eps);
Normalized LayerNormForward(const at::Tensor& x_ND, const at::Tensor& weight_D, const at::Tensor& bias_D, double eps);

// Returns residual_ND + dL/dx (residual: gradient that reaches x past the norm; undefined is zero) and adds dL/dweight
// and dL/dbias into the slots that are defined.
struct NormGradient {
  at::Tensor residual_ND, weight_slot_D, bias_slot_D;
};
at::Tensor RmsNormBackward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& weight_D,
                           const Normalized& forward, const NormGradient& gradient);
at::Tensor LayerNormBackward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& weight_D,
                             const Normalized& forward, const NormGradient& gradient);

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_NORM_H_
