#include "model/ops/linear.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstring>

#include "model/ops/parallel.h"
#include "model/ops/product_threads.h"

namespace vlm::model::ops {
namespace {

// Rows up to which weights are streamed once by a kernel of dot products: a BLAS first copies all of them into its own
// order, which pays only when many rows use the copy. Generation has as many rows as it has prompts.
constexpr int64_t kFewRows = 16;
constexpr int64_t kOutputsPerTask = 64;

bool HasFewRows(const at::Tensor& x_ND, const at::Tensor& weight) {
  return !c10::GradMode::is_enabled() && x_ND.is_cpu() && x_ND.size(0) <= kFewRows && x_ND.size(0) > 0 &&
         x_ND.scalar_type() == at::kFloat && x_ND.is_contiguous() && weight.is_contiguous();
}

struct FewRows {
  const float *x, *weight, *bias, *residual;  // bias and residual may be null
  float* y;
  int64_t rows, depth, outputs;
};

// Dot products of kRows rows of x with kOutputs rows of the weight, in lanes of eight and in one order for every kRows.
template <int64_t kRows, int64_t kOutputs>
__attribute__((always_inline)) inline void DotProducts(const FewRows& t, int64_t row, int64_t output) {
  constexpr int64_t kLanes = 8;
  using Vector = float __attribute__((vector_size(32), aligned(4), may_alias));
  Vector sums[kRows][kOutputs] = {};
  const float *x = t.x + row * t.depth, *weight = t.weight + output * t.depth;
  const int64_t whole = t.depth / kLanes * kLanes;
  for (int64_t j = 0; j < whole; j += kLanes) {
#pragma GCC unroll 4
    for (int64_t o = 0; o < kOutputs; ++o) {
      const Vector w = *reinterpret_cast<const Vector*>(weight + o * t.depth + j);
#pragma GCC unroll 2
      for (int64_t r = 0; r < kRows; ++r) sums[r][o] += w * *reinterpret_cast<const Vector*>(x + r * t.depth + j);
    }
  }
  // What is left over as one more vector: scalar code may round products that vector code does not.
  const auto copy_rest = [&](const float* from, Vector* to) __attribute__((always_inline)) {
    *to = Vector{};
    std::memcpy(to, from + whole, (t.depth - whole) * sizeof(float));
  };
  for (int64_t o = 0; o < kOutputs && whole < t.depth; ++o) {
    Vector left, right;
    copy_rest(weight + o * t.depth, &left);
    for (int64_t r = 0; r < kRows; ++r) {
      copy_rest(x + r * t.depth, &right);
      sums[r][o] += left * right;
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t o = 0; o < kOutputs; ++o) {
      Vector halves = sums[r][o];  // added as a tree, which takes three steps where a chain takes seven
      halves += __builtin_shufflevector(halves, halves, 4, 5, 6, 7, 0, 1, 2, 3);
      halves += __builtin_shufflevector(halves, halves, 2, 3, 0, 1, 6, 7, 4, 5);
      halves += __builtin_shufflevector(halves, halves, 1, 0, 3, 2, 5, 4, 7, 6);
      float sum = halves[0];
      const int64_t place = (row + r) * t.outputs + output + o;
      if (t.bias != nullptr) sum += t.bias[output + o];
      t.y[place] = t.residual != nullptr ? t.residual[place] + sum : sum;
    }
  }
}

// x W^T + bias + residual for few rows of x; the last two may be undefined.
at::Tensor LinearOfFewRows(const at::Tensor& x_ND, const at::Tensor& weight, const at::Tensor& bias,
                           const at::Tensor& residual) {
  const auto data = [](const at::Tensor& t) { return t.defined() ? t.const_data_ptr<float>() : nullptr; };
  const auto contiguous = [](const at::Tensor& t) { return t.defined() ? t.contiguous() : t; };
  const at::Tensor bias_O = contiguous(bias), residual_NO = contiguous(residual);
  at::Tensor y = at::empty({x_ND.size(0), weight.size(0)}, x_ND.options());
  const FewRows t{data(x_ND),   data(weight), data(bias_O),  data(residual_NO), y.mutable_data_ptr<float>(),
                  x_ND.size(0), x_ND.size(1), weight.size(0)};
  ParallelRows(t.outputs, kOutputsPerTask, [&t](int64_t begin, int64_t end) __attribute__((always_inline)) {
    constexpr int64_t kOutputs = 4;
    const int64_t whole = begin + (end - begin) / kOutputs * kOutputs;
    for (int64_t o = begin; o < whole; o += kOutputs) {
      int64_t row = 0;
      for (; row + 2 <= t.rows; row += 2) DotProducts<2, kOutputs>(t, row, o);
      if (row < t.rows) DotProducts<1, kOutputs>(t, row, o);
    }
    for (int64_t o = whole; o < end; ++o) {
      for (int64_t row = 0; row < t.rows; ++row) DotProducts<1, 1>(t, row, o);
    }
  });
  return y;
}

// x W^T + b; `bias` may be undefined. Differentiable when grad mode is on.
at::Tensor Product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (HasFewRows(x, weight)) return LinearOfFewRows(x, weight, bias, {});
  const ProductThreads threads(x.size(0), weight.size(0));
  return at::linear(x, weight, bias);
}

std::vector<at::Tensor> Weights(const Params& params, const LinearGroup& group) {
  std::vector<at::Tensor> weights;
  for (const LinearRef& linear : group) weights.push_back(params[linear.weight]);
  return weights;
}

at::Tensor Bias(const Params& params, const LinearRef& linear) {
  return linear.bias == kNone ? at::Tensor() : params[linear.bias];
}

// y[:, columns of the part] = x W^T + b, into a slice of an existing matrix.
void LinearInto(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, at::Tensor y) {
  const ProductThreads threads(y.size(0), y.size(1));
  if (bias.defined()) {
    at::addmm_out(y, bias, x, weight.t());
  } else {
    at::mm_out(y, x, weight.t());
  }
}

void AddProduct(at::Tensor slot, const at::Tensor& dy, const at::Tensor& x) {
  const ProductThreads threads(slot.size(0), slot.size(1));
  if (slot.scalar_type() == x.scalar_type()) {
    slot.addmm_(dy.t(), x);
  } else {
    slot.add_(at::mm(dy.t(), x));  // fp32 slot of a bf16 model
  }
}

}  // namespace

at::Tensor Adjacent(const std::vector<at::Tensor>& parts) {
  const at::Tensor& first = parts.front();
  if (!first.defined() || parts.size() == 1) return first;
  int64_t rows = 0, next = first.storage_offset();
  for (const at::Tensor& part : parts) {
    if (!part.defined() || !part.is_contiguous() || part.dim() != first.dim() ||
        part.scalar_type() != first.scalar_type() || part.storage_offset() != next ||
        !part.storage().is_alias_of(first.storage()) || (part.dim() == 2 && part.size(1) != first.size(1))) {
      return {};
    }
    rows += part.size(0);
    next += part.numel();
  }
  if (first.dim() == 2) return first.as_strided({rows, first.size(1)}, {first.size(1), 1});
  return first.as_strided({rows}, {1});
}

at::Tensor Linear(const Params& params, const LinearGroup& group, const at::Tensor& x_ND) {
  if (group.size() == 1) {
    return Product(x_ND, params[group[0].weight], Bias(params, group[0]));
  }
  if (c10::GradMode::is_enabled()) {
    std::vector<at::Tensor> outputs;
    for (const LinearRef& linear : group) {
      outputs.push_back(at::linear(x_ND, params[linear.weight], Bias(params, linear)));
    }
    return at::cat(outputs, 1);
  }
  const std::vector<at::Tensor> weights = Weights(params, group);
  const bool has_bias = group.front().bias != kNone;
  if (at::Tensor weight = Adjacent(weights); weight.defined()) {
    if (!has_bias) return Product(x_ND, weight, {});
    std::vector<at::Tensor> biases;
    for (const LinearRef& linear : group) biases.push_back(Bias(params, linear));
    const at::Tensor bias = Adjacent(biases);
    return Product(x_ND, weight, bias.defined() ? bias : at::cat(biases));
  }
  int64_t width = 0;
  for (const at::Tensor& weight : weights) width += weight.size(0);
  at::Tensor y = at::empty({x_ND.size(0), width}, x_ND.options());
  int64_t column = 0;
  for (size_t i = 0; i < group.size(); ++i) {
    const int64_t outputs = weights[i].size(0);
    LinearInto(x_ND, weights[i], Bias(params, group[i]), y.narrow(1, column, outputs));
    column += outputs;
  }
  return y;
}

at::Tensor LinearAdd(const Params& params, LinearRef linear, const at::Tensor& x_ND, const at::Tensor& residual_NO) {
  const at::Tensor& weight = params[linear.weight];
  const at::Tensor bias = Bias(params, linear);
  if (c10::GradMode::is_enabled()) return residual_NO + at::linear(x_ND, weight, bias);
  if (HasFewRows(x_ND, weight)) return LinearOfFewRows(x_ND, weight, bias, residual_NO);
  const ProductThreads threads(x_ND.size(0), weight.size(0));
  if (!bias.defined()) return at::addmm(residual_NO, x_ND, weight.t());
  return at::add(residual_NO, bias).addmm_(x_ND, weight.t());
}

at::Tensor LinearInputGradient(const Params& params, const LinearGroup& group, const at::Tensor& dy_NO) {
  const std::vector<at::Tensor> weights = Weights(params, group);
  const ProductThreads threads(dy_NO.size(0), weights.front().size(1));
  if (at::Tensor weight = Adjacent(weights); weight.defined()) return at::mm(dy_NO, weight);
  at::Tensor dx;
  int64_t column = 0;
  for (const at::Tensor& weight : weights) {
    const at::Tensor dy = dy_NO.narrow(1, column, weight.size(0));
    column += weight.size(0);
    if (dx.defined()) {
      dx.addmm_(dy, weight);
    } else {
      dx = at::mm(dy, weight);
    }
  }
  return dx;
}

void AddLinearParameterGradients(const Params& params, const LinearGroup& group, const at::Tensor& dy_NO,
                                 const at::Tensor& x_ND, GradSink* sink) {
  std::vector<at::Tensor> slots;
  bool bias_wanted = false;
  for (const LinearRef& linear : group) {
    slots.push_back(sink->slots[linear.weight]);
    bias_wanted |= linear.bias != kNone && sink->slots[linear.bias].defined();
  }
  const at::Tensor bias_sum = bias_wanted ? ColumnSum(dy_NO) : at::Tensor();
  const at::Tensor merged = Adjacent(slots);
  if (merged.defined() && merged.size(0) == dy_NO.size(1)) AddProduct(merged, dy_NO, x_ND);
  int64_t column = 0;
  for (size_t i = 0; i < group.size(); ++i) {
    const at::Tensor bias_slot = group[i].bias == kNone ? at::Tensor() : sink->slots[group[i].bias];
    const int64_t width = params[group[i].weight].size(0);
    if (!merged.defined() && slots[i].defined()) AddProduct(slots[i], dy_NO.narrow(1, column, width), x_ND);
    if (bias_slot.defined()) bias_slot.add_(bias_sum.narrow(0, column, width));
    column += width;
  }
}

at::Tensor ColumnSum(const at::Tensor& y_NO) {
  if (!y_NO.is_cpu() || y_NO.scalar_type() != at::kFloat || !y_NO.is_contiguous()) {
    return y_NO.sum(0, /*keepdim=*/false, y_NO.scalar_type() == at::kBFloat16 ? at::kFloat : y_NO.scalar_type());
  }
  const int64_t rows = y_NO.size(0), width = y_NO.size(1);
  const int64_t chunks = (rows + kRowsPerChunk - 1) / kRowsPerChunk;
  at::Tensor partial = at::zeros({std::max<int64_t>(chunks, 1), width}, y_NO.options());
  const float* source = y_NO.const_data_ptr<float>();
  float* sums = partial.mutable_data_ptr<float>();
  ParallelRows(chunks, 1, [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t c = begin; c < end; ++c) {
      float* sum = sums + c * width;
      const int64_t last = std::min(rows, (c + 1) * kRowsPerChunk);
      for (int64_t r = c * kRowsPerChunk; r < last; ++r) {
        const float* row = source + r * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) sum[j] += row[j];
      }
    }
  });
  AddRowsInOrder(sums, chunks, width);
  return partial[0];
}

}  // namespace vlm::model::ops
