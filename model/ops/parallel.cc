#include "model/ops/parallel.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>

namespace vlm::model::ops {

void ParallelFor(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  if (count <= grain || at::get_num_threads() == 1) {
    body(0, count);
    return;
  }
  // An iterator over a byte per row: its for_each is compiled inside LibTorch and uses ATen's pool.
  const at::Tensor rows = at::empty({count}, at::kByte);
  const auto* base = static_cast<const char*>(rows.const_data_ptr());
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false).resize_outputs(false).declare_static_dtype_and_device(at::kByte, at::kCPU);
  config.add_owned_const_input(rows);
  config.declare_static_shape({count});
  at::TensorIterator iterator = config.build();
  iterator.for_each(
      [&](char** data, const int64_t* strides, int64_t inner, int64_t outer) {
        for (int64_t i = 0; i < outer; ++i) {
          const int64_t begin = data[0] + i * strides[1] - base;
          body(begin, begin + inner);
        }
      },
      grain);
}

void AddRowsInOrder(float* rows, int64_t chunks, int64_t width) {
  for (int64_t c = 1; c < chunks; ++c) {
    const float* row = rows + c * width;
    for (int64_t j = 0; j < width; ++j) rows[j] += row[j];
  }
}

bool HasWideVectors() {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
}

}  // namespace vlm::model::ops
