// Moving whole rows: embedding lookup and its gradient, and writing vision tokens into the token axis.
#ifndef VLM_MODEL_OPS_ROWS_H_
#define VLM_MODEL_OPS_ROWS_H_

#include <ATen/core/Tensor.h>

namespace vlm::model::ops {

// weight[ids]: [V, D], [N] -> [N, D]. Differentiable.
at::Tensor Embed(const at::Tensor& weight_VD, const at::Tensor& ids_N);
// slot[ids[n]] += dy[n], in order of n for every row on the CPU: equal bits for any number of threads. The slot is
// fp32, fp64 or bf16; into bf16 a row's sum is made in fp32 and rounded once.
void AddEmbeddingGradient(const at::Tensor& dy_ND, const at::Tensor& ids_N, at::Tensor slot_VD);

// A copy of x with x[rows[i]] = y[i]; rows are distinct. Differentiable in x and y.
at::Tensor ReplaceRows(const at::Tensor& x_ND, const at::Tensor& rows_V, const at::Tensor& y_VD);

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_ROWS_H_
