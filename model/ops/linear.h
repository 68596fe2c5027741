// Every matrix product of every model goes through these functions.
//
// A group is one or more linear layers with the same input (q, k, v; gate, up): their outputs lie side by side in
// one matrix. Where the weights lie one after another in memory, as in a bucket, a group is one GEMM.
// Few rows (generation) in fp32 on the CPU go through a kernel of our own, many through LibTorch's BLAS; up to that
// border a row's bits do not depend on how many rows there are.
// x is [N, D] contiguous, weights [O_i, D], biases [O_i]; any floating type; CPU or CUDA.
#ifndef VLM_MODEL_OPS_LINEAR_H_
#define VLM_MODEL_OPS_LINEAR_H_

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/graph.h"

namespace vlm::model::ops {

// Positions in the node's Params (and so in GradSink::slots and `trainable`).
struct LinearRef {
  int weight = kNone;
  int bias = kNone;
};
using LinearGroup = std::vector<LinearRef>;

// y = x W^T + b, outputs of the group side by side: [N, O_1 + ...]. Differentiable when grad mode is on.
at::Tensor Linear(const Params& params, const LinearGroup& group, const at::Tensor& x_ND);
// residual + x W^T + b. Differentiable when grad mode is on; one GEMM into a copy of the residual otherwise.
at::Tensor LinearAdd(const Params& params, LinearRef linear, const at::Tensor& x_ND, const at::Tensor& residual_NO);

// dL/dx = dy W for dy of the whole group, [N, O_1 + ...].
at::Tensor LinearInputGradient(const Params& params, const LinearGroup& group, const at::Tensor& dy_NO);
// slot += dy^T x and slot += column sums of dy, for the slots that are defined.
void AddLinearParameterGradients(const Params& params, const LinearGroup& group, const at::Tensor& dy_NO,
                                 const at::Tensor& x_ND, GradSink* sink);

// Sum over rows in chunks of kRowsPerChunk, chunks in order: equal bits for any number of threads.
at::Tensor ColumnSum(const at::Tensor& y_NO);

// The tensors as one when each begins where the last ended in one storage (rows of equal width, or 1-d); undefined
// otherwise.
at::Tensor Adjacent(const std::vector<at::Tensor>& parts);

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_LINEAR_H_
