#include "model/ops/norm.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "model/ops/parallel.h"

namespace vlm::model::ops {
namespace {

at::ScalarType StatisticsType(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

bool Fused(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous(); }

// One fp32 norm over rows: shapes and buffers of its backward pass. mean is null for RMSNorm.
struct Rows {
  int64_t rows, width;
  const float *dy, *x, *weight, *mean, *inverse, *residual;
  float *dx, *weight_sums, *bias_sums;  // sums: [chunks, width], zeroed; null where not wanted
};

// dL/dx of row r. With xhat = (x - mean) * inverse and g = dy * weight:
//   LayerNorm: dx = inverse * (g - mean(g) - xhat * mean(g * xhat));  RMSNorm: the same without mean(g).
__attribute__((always_inline)) inline void BackwardRow(const Rows& t, int64_t r) {
  const float *dy = t.dy + r * t.width, *x = t.x + r * t.width, *weight = t.weight;
  const float inverse = t.inverse[r], mean = t.mean ? t.mean[r] : 0.0f;
  float g_sum = 0, gx_sum = 0;
#pragma omp simd reduction(+ : g_sum, gx_sum)
  for (int64_t j = 0; j < t.width; ++j) {
    const float g = dy[j] * weight[j];
    g_sum += g;
    gx_sum += g * ((x[j] - mean) * inverse);
  }
  const float g_mean = t.mean ? g_sum / t.width : 0.0f, gx_mean = gx_sum / t.width;
  float* dx = t.dx + r * t.width;
  if (t.residual != nullptr) {
    const float* residual = t.residual + r * t.width;
#pragma omp simd
    for (int64_t j = 0; j < t.width; ++j) {
      dx[j] = residual[j] + inverse * (dy[j] * weight[j] - g_mean - ((x[j] - mean) * inverse) * gx_mean);
    }
  } else {
#pragma omp simd
    for (int64_t j = 0; j < t.width; ++j) {
      dx[j] = inverse * (dy[j] * weight[j] - g_mean - ((x[j] - mean) * inverse) * gx_mean);
    }
  }
}

__attribute__((always_inline)) inline void SumRow(const Rows& t, int64_t chunk, int64_t r) {
  const float *dy = t.dy + r * t.width, *x = t.x + r * t.width;
  const float inverse = t.inverse[r], mean = t.mean ? t.mean[r] : 0.0f;
  if (t.weight_sums != nullptr) {
    float* sums = t.weight_sums + chunk * t.width;
#pragma omp simd
    for (int64_t j = 0; j < t.width; ++j) sums[j] += dy[j] * ((x[j] - mean) * inverse);
  }
  if (t.bias_sums != nullptr) {
    float* sums = t.bias_sums + chunk * t.width;
#pragma omp simd
    for (int64_t j = 0; j < t.width; ++j) sums[j] += dy[j];
  }
}

at::Tensor FusedBackward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& weight_D,
                         const Normalized& forward, const NormGradient& gradient) {
  const int64_t rows = x_ND.size(0), width = x_ND.size(1);
  const int64_t chunks = (rows + kRowsPerChunk - 1) / kRowsPerChunk;
  const at::Tensor dy = dy_ND.contiguous();
  const at::Tensor residual = gradient.residual_ND.defined() ? gradient.residual_ND.contiguous() : at::Tensor();
  at::Tensor dx = at::empty_like(x_ND);
  const auto sums = [&](const at::Tensor& slot) {
    return slot.defined() ? at::zeros({chunks, width}, x_ND.options()) : at::Tensor();
  };
  at::Tensor weight_sums = sums(gradient.weight_slot_D), bias_sums = sums(gradient.bias_slot_D);
  const auto data = [](at::Tensor& t) { return t.defined() ? t.mutable_data_ptr<float>() : nullptr; };
  const auto constant = [](const at::Tensor& t) { return t.defined() ? t.const_data_ptr<float>() : nullptr; };
  const at::Tensor weight = weight_D.contiguous();
  const Rows t{rows,
               width,
               constant(dy),
               constant(x_ND),
               constant(weight),
               constant(forward.mean_N),
               constant(forward.inverse_N),
               constant(residual),
               data(dx),
               data(weight_sums),
               data(bias_sums)};
  ParallelRows(chunks, 1, [t](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t last = std::min(t.rows, (c + 1) * kRowsPerChunk);
      for (int64_t r = c * kRowsPerChunk; r < last; ++r) {
        BackwardRow(t, r);
        SumRow(t, c, r);
      }
    }
  });
  const auto add = [&](at::Tensor slot, at::Tensor& chunk_sums) {
    if (!slot.defined() || chunks == 0) return;
    AddRowsInOrder(chunk_sums.mutable_data_ptr<float>(), chunks, width);
    slot.add_(chunk_sums[0]);
  };
  add(gradient.weight_slot_D, weight_sums);
  add(gradient.bias_slot_D, bias_sums);
  return dx;
}

// The formulas of BackwardRow on whole tensors, for other types and devices.
at::Tensor PlainBackward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& weight_D,
                         const Normalized& forward, const NormGradient& gradient) {
  const at::ScalarType type = StatisticsType(x_ND);
  const at::Tensor dy = dy_ND.to(type);
  const at::Tensor inverse = forward.inverse_N.view({-1, 1});
  const bool centred = forward.mean_N.defined();
  const at::Tensor x = x_ND.to(type);
  const at::Tensor xhat = (centred ? x - forward.mean_N.view({-1, 1}) : x) * inverse;
  const at::Tensor g = dy * weight_D.to(type);
  at::Tensor dx = g - xhat * (g * xhat).mean(1, true);
  if (centred) dx = dx - g.mean(1, true);
  dx = (dx * inverse).to(x_ND.scalar_type());
  if (at::Tensor slot = gradient.weight_slot_D; slot.defined()) slot.add_((dy * xhat).sum(0));
  if (at::Tensor slot = gradient.bias_slot_D; slot.defined()) slot.add_(dy.sum(0));
  return gradient.residual_ND.defined() ? gradient.residual_ND + dx : dx;
}

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x_ND, const at::Tensor& weight_D, double eps) {
  const at::Tensor x = x_ND.to(StatisticsType(x_ND));
  const at::Tensor mean_square = x.pow(2).mean(-1, true);
  return weight_D * (x * at::rsqrt(mean_square + eps)).to(x_ND.scalar_type());
}

at::Tensor LayerNorm(const at::Tensor& x_ND, const at::Tensor& weight_D, const at::Tensor& bias_D, double eps) {
  return at::layer_norm(x_ND, weight_D.sizes(), weight_D, bias_D, eps);
}

Normalized RmsNormForward(const at::Tensor& x_ND, const at::Tensor& weight_D, double eps) {
  if (!Fused(x_ND)) {
    const at::Tensor x = x_ND.to(StatisticsType(x_ND));
    const at::Tensor inverse = at::rsqrt(x.pow(2).mean(-1, true) + eps);
    return {weight_D * (x * inverse).to(x_ND.scalar_type()), {}, inverse.view({-1})};
  }
  const int64_t rows = x_ND.size(0), width = x_ND.size(1);
  Normalized result{at::empty_like(x_ND), {}, at::empty({rows}, x_ND.options())};
  const at::Tensor weight_D_contiguous = weight_D.contiguous();
  const float *source = x_ND.const_data_ptr<float>(), *weight = weight_D_contiguous.const_data_ptr<float>();
  float *y = result.y_ND.mutable_data_ptr<float>(), *inverses = result.inverse_N.mutable_data_ptr<float>();
  const float epsilon = static_cast<float>(eps);
  ParallelRows(rows, kRowsPerChunk, [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t r = begin; r < end; ++r) {
      const float* x = source + r * width;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < width; ++j) sum += x[j] * x[j];
      const float inverse = 1.0f / std::sqrt(sum / width + epsilon);
      inverses[r] = inverse;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) y[r * width + j] = weight[j] * (x[j] * inverse);
    }
  });
  return result;
}

Normalized LayerNormForward(const at::Tensor& x_ND, const at::Tensor& weight_D, const at::Tensor& bias_D, double eps) {
  auto [y, mean, inverse] = at::native_layer_norm(x_ND, weight_D.sizes(), weight_D, bias_D, eps);
  const at::ScalarType type = StatisticsType(x_ND);
  return {y, mean.to(type).view({-1}), inverse.to(type).view({-1})};
}

at::Tensor RmsNormBackward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& weight_D,
                           const Normalized& forward, const NormGradient& gradient) {
  return (Fused(x_ND) ? FusedBackward : PlainBackward)(dy_ND, x_ND, weight_D, forward, gradient);
}

at::Tensor LayerNormBackward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& weight_D,
                             const Normalized& forward, const NormGradient& gradient) {
  return (Fused(x_ND) ? FusedBackward : PlainBackward)(dy_ND, x_ND, weight_D, forward, gradient);
}

}  // namespace vlm::model::ops
