#include "model/ops/rows.h"

#include <ATen/ATen.h>

#include "model/ops/parallel.h"

namespace vlm::model::ops {
namespace {

// Columns each thread owns at least; a thread walks all tokens for its columns, so no two threads share a number.
constexpr int64_t kColumnsPerThread = 64;

template <typename Gradient, typename Slot>
void AddRows(const at::Tensor& dy, const at::Tensor& ids, at::Tensor slot) {
  const int64_t tokens = dy.size(0), width = dy.size(1), slot_row = slot.stride(0);
  const Gradient* source = dy.const_data_ptr<Gradient>();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  Slot* target = slot.mutable_data_ptr<Slot>();
  ParallelFor(width, kColumnsPerThread, [=](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < tokens; ++n) {
      const Gradient* row = source + n * width;
      Slot* sum = target + id[n] * slot_row;
      for (int64_t j = begin; j < end; ++j) sum[j] += static_cast<Slot>(row[j]);
    }
  });
}

}  // namespace

at::Tensor Embed(const at::Tensor& weight_VD, const at::Tensor& ids_N) { return at::embedding(weight_VD, ids_N); }

void AddEmbeddingGradient(const at::Tensor& dy_ND, const at::Tensor& ids_N, at::Tensor slot_VD) {
  const at::Tensor dy = dy_ND.contiguous(), ids = ids_N.contiguous();
  const at::ScalarType from = dy.scalar_type(), to = slot_VD.scalar_type();
  if (to == at::kBFloat16) {
    // A sum in fp32, rounded once: repeated additions in bf16 would lose every small contribution.
    at::Tensor sum = at::zeros(slot_VD.sizes(), slot_VD.options().dtype(at::kFloat));
    AddEmbeddingGradient(dy, ids, sum);
    slot_VD.add_(sum);
  } else if (!dy.is_cpu() || slot_VD.stride(1) != 1) {
    slot_VD.index_add_(0, ids, dy.to(to));
  } else if (from == at::kBFloat16 && to == at::kFloat) {
    AddRows<at::BFloat16, float>(dy, ids, slot_VD);
  } else if (to == at::kFloat) {
    AddRows<float, float>(dy.to(at::kFloat), ids, slot_VD);
  } else {
    AddRows<double, double>(dy.to(at::kDouble), ids, slot_VD);
  }
}

at::Tensor ReplaceRows(const at::Tensor& x_ND, const at::Tensor& rows_V, const at::Tensor& y_VD) {
  return at::index_copy(x_ND, 0, rows_V, y_VD);
}

}  // namespace vlm::model::ops
