// Feed-forward activations.
#ifndef VLM_MODEL_OPS_ACTIVATION_H_
#define VLM_MODEL_OPS_ACTIVATION_H_

#include <ATen/core/Tensor.h>

namespace vlm::model::ops {

// silu(gate) * up for gate_up = [gate | up], [N, 2F] -> [N, F]. Differentiable when grad mode is on.
at::Tensor SwiGlu(const at::Tensor& gate_up);
// dL/dgate_up, [N, 2F]: d_gate = da * up * silu'(gate), d_up = da * silu(gate).
at::Tensor SwiGluBackward(const at::Tensor& da_NF, const at::Tensor& gate_up);

// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), or with erf(x / sqrt 2) in place of tanh.
enum class GeluKind { kTanh, kErf };
at::Tensor Gelu(const at::Tensor& x, GeluKind kind);
at::Tensor GeluBackward(const at::Tensor& dy, const at::Tensor& x, GeluKind kind);

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_ACTIVATION_H_
