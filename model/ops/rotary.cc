#include "model/ops/rotary.h"

#include <ATen/ATen.h>

#include "model/ops/parallel.h"

namespace vlm::model::ops {

at::Tensor RotaryTable(const at::Tensor& positions_N, double theta, int64_t head_size) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(positions_N.device());
  const at::Tensor exponent = at::arange(0, head_size, 2, options) / static_cast<double>(head_size);
  const at::Tensor frequency = 1.0 / at::pow(at::Scalar(theta), exponent);
  const at::Tensor angle = positions_N.to(at::kFloat).unsqueeze(1) * frequency;
  return at::stack({angle.cos(), angle.sin()});
}

at::Tensor Rotate(const at::Tensor& x_NHE, const at::Tensor& table) {
  const at::Tensor typed = table.to(x_NHE.scalar_type());
  const at::Tensor cos = typed[0].unsqueeze(1), sin = typed[1].unsqueeze(1);  // [N, 1, E/2]
  const int64_t half = x_NHE.size(2) / 2;
  const at::Tensor a = x_NHE.narrow(2, 0, half), b = x_NHE.narrow(2, half, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, 2);
}

void RotateInto(const at::Tensor& src_NHE, const at::Tensor& table, bool inverse, at::Tensor dst_NHE) {
  if (!src_NHE.is_cpu() || src_NHE.scalar_type() != at::kFloat || !table.is_contiguous()) {
    const at::Tensor direction = inverse ? at::stack({table[0], -table[1]}) : table;
    dst_NHE.copy_(Rotate(src_NHE, direction));
    return;
  }
  const int64_t rows = src_NHE.size(0), heads = src_NHE.size(1), half = src_NHE.size(2) / 2;
  const int64_t src_row = src_NHE.stride(0), src_head = src_NHE.stride(1);
  const int64_t dst_row = dst_NHE.stride(0), dst_head = dst_NHE.stride(1);
  const float* src = src_NHE.const_data_ptr<float>();
  float* dst = dst_NHE.mutable_data_ptr<float>();
  const float *cosines = table.const_data_ptr<float>(), *sines = cosines + rows * half;
  const float sign = inverse ? -1.0f : 1.0f;
  ParallelRows(rows, kRowsPerChunk, [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t r = begin; r < end; ++r) {
      const float *cos = cosines + r * half, *sin = sines + r * half;
      for (int64_t h = 0; h < heads; ++h) {
        const float* x = src + r * src_row + h * src_head;
        float* y = dst + r * dst_row + h * dst_head;
#pragma omp simd
        for (int64_t j = 0; j < half; ++j) {
          const float a = x[j], b = x[j + half], s = sign * sin[j];
          y[j] = a * cos[j] - b * s;
          y[j + half] = b * cos[j] + a * s;
        }
      }
    }
  });
}

}  // namespace vlm::model::ops
