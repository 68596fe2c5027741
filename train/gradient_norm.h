// The global gradient norm with a sum order that does not depend on the number of ranks: fp64 partial sums per block of
// kBlockElements elements, added in the order of buckets and blocks.
#ifndef VLM_TRAIN_GRADIENT_NORM_H_
#define VLM_TRAIN_GRADIENT_NORM_H_

#include <ATen/core/Tensor.h>

#include <vector>

#include "train/parameter_store.h"

namespace vlm::train {

// Sum of squares of each block of a 1-d fp32 tensor whose length is a multiple of kBlockElements.
std::vector<double> BlockSquareSums(const at::Tensor& gradient);

// This rank's shard's sums, for each bucket marked in `reached`, one after another. In zero 0, too, a rank sums only
// the shard it would own, so that the work is shared.
std::vector<double> ShardSquareSums(const ParameterStore& store, const std::vector<bool>& reached);

// The norm from every rank's ShardSquareSums. INTERNAL when their lengths do not fit.
absl::StatusOr<double> JoinSquareSums(const ParameterStore& store, const std::vector<bool>& reached,
                                      const std::vector<std::vector<double>>& by_rank);

// As torch.nn.utils.clip_grad_norm_: min(1, clip / (norm + 1e-6)); 1 when clip is 0 (no clipping).
double ClipCoefficient(double norm, double clip);

}  // namespace vlm::train

#endif  // VLM_TRAIN_GRADIENT_NORM_H_
