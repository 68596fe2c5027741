#include "model/ops/activation.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "model/ops/exp.h"
#include "model/ops/parallel.h"

namespace vlm::model::ops {
namespace {

// Fewer elements are not worth handing to another thread.
constexpr int64_t kElementsPerTask = 1 << 14;

const char* Approximation(GeluKind kind) { return kind == GeluKind::kTanh ? "tanh" : "none"; }

bool Fused(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous(); }

at::Tensor FusedSwiGlu(const at::Tensor& gate_up) {
  const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
  at::Tensor result = at::empty({rows, width}, gate_up.options());
  const float* source = gate_up.const_data_ptr<float>();
  float* y = result.mutable_data_ptr<float>();
  ParallelRows(rows, kRowsPerChunk, [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t r = begin; r < end; ++r) {
      const float *gate = source + r * 2 * width, *up = gate + width;
      float* out = y + r * width;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) out[j] = gate[j] / (1.0f + Exp(-gate[j])) * up[j];
    }
  });
  return result;
}

// With s = sigmoid(gate): silu = gate s and silu' = s (1 + gate (1 - s)).
at::Tensor FusedSwiGluBackward(const at::Tensor& da_NF, const at::Tensor& gate_up) {
  const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
  at::Tensor result = at::empty_like(gate_up);
  const float *source = gate_up.const_data_ptr<float>(), *gradient = da_NF.const_data_ptr<float>();
  float* d = result.mutable_data_ptr<float>();
  ParallelRows(rows, kRowsPerChunk, [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t r = begin; r < end; ++r) {
      const float *gate = source + r * 2 * width, *up = gate + width, *da = gradient + r * width;
      float *d_gate = d + r * 2 * width, *d_up = d_gate + width;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const float s = 1.0f / (1.0f + Exp(-gate[j]));
        d_up[j] = da[j] * gate[j] * s;
        d_gate[j] = da[j] * up[j] * s * (1.0f + gate[j] * (1.0f - s));
      }
    }
  });
  return result;
}

// tanh GELU is x s with s = sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): 1 + tanh(u) = 2 sigmoid(2u).
constexpr float kTwiceRoot = 1.5957691216057308f, kCube = 0.044715f;

at::Tensor FusedGeluTanh(const at::Tensor& input) {
  at::Tensor result = at::empty_like(input);
  const float* x = input.const_data_ptr<float>();
  float* y = result.mutable_data_ptr<float>();
  ParallelRows(input.numel(), kElementsPerTask, [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      y[i] = x[i] / (1.0f + Exp(-kTwiceRoot * (x[i] + kCube * x[i] * x[i] * x[i])));
    }
  });
  return result;
}

// dy (s + x s (1 - s) 2u').
at::Tensor FusedGeluTanhBackward(const at::Tensor& gradient, const at::Tensor& input) {
  at::Tensor result = at::empty_like(input);
  const float *x = input.const_data_ptr<float>(), *dy = gradient.const_data_ptr<float>();
  float* d = result.mutable_data_ptr<float>();
  ParallelRows(input.numel(), kElementsPerTask, [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const float square = kCube * x[i] * x[i];
      const float s = 1.0f / (1.0f + Exp(-kTwiceRoot * (x[i] + square * x[i])));
      d[i] = dy[i] * s * (1.0f + x[i] * (1.0f - s) * kTwiceRoot * (1.0f + 3.0f * square));
    }
  });
  return result;
}

}  // namespace

at::Tensor SwiGlu(const at::Tensor& gate_up) {
  if (!c10::GradMode::is_enabled() && Fused(gate_up)) return FusedSwiGlu(gate_up);
  const int64_t width = gate_up.size(1) / 2;
  return at::silu(gate_up.narrow(1, 0, width)) * gate_up.narrow(1, width, width);
}

at::Tensor SwiGluBackward(const at::Tensor& da_NF, const at::Tensor& gate_up) {
  if (Fused(gate_up) && Fused(da_NF)) return FusedSwiGluBackward(da_NF, gate_up);
  const int64_t width = gate_up.size(1) / 2;
  const at::Tensor gate = gate_up.narrow(1, 0, width), up = gate_up.narrow(1, width, width);
  return at::cat({at::silu_backward(da_NF * up, gate), da_NF * at::silu(gate)}, 1);
}

at::Tensor Gelu(const at::Tensor& x, GeluKind kind) {
  if (kind == GeluKind::kTanh && !c10::GradMode::is_enabled() && Fused(x)) return FusedGeluTanh(x);
  return at::gelu(x, Approximation(kind));
}

at::Tensor GeluBackward(const at::Tensor& dy, const at::Tensor& x, GeluKind kind) {
  if (kind == GeluKind::kTanh && Fused(dy) && Fused(x)) return FusedGeluTanhBackward(dy, x);
  return at::gelu_backward(dy, x, Approximation(kind));
}

}  // namespace vlm::model::ops
