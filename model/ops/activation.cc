#include "model/ops/activation.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

namespace vlm::model::ops {
namespace {

const char* Approximation(GeluKind kind) { return kind == GeluKind::kTanh ? "tanh" : "none"; }

}  // namespace

at::Tensor SwiGlu(const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  const at::Tensor gate = gate_up.narrow(1, 0, width), up = gate_up.narrow(1, width, width);
  if (c10::GradMode::is_enabled()) return at::silu(gate) * up;
  at::Tensor y = at::empty({gate_up.size(0), width}, gate_up.options());
  at::silu_out(y, gate);
  return y.mul_(up);
}

at::Tensor SwiGluBackward(const at::Tensor& da_NF, const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  const at::Tensor gate = gate_up.narrow(1, 0, width), up = gate_up.narrow(1, width, width);
  at::Tensor result = at::empty_like(gate_up);
  at::Tensor d_gate = result.narrow(1, 0, width), d_up = result.narrow(1, width, width);
  at::mul_out(d_up, da_NF, up);  // d_up holds dL/dsilu for a moment
  at::silu_backward_out(d_gate, d_up, gate);
  at::silu_out(d_up, gate);
  d_up.mul_(da_NF);
  return result;
}

at::Tensor Gelu(const at::Tensor& x, GeluKind kind) { return at::gelu(x, Approximation(kind)); }

at::Tensor GeluBackward(const at::Tensor& dy, const at::Tensor& x, GeluKind kind) {
  return at::gelu_backward(dy, x, Approximation(kind));
}

}  // namespace vlm::model::ops
