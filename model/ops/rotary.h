// Rotary position embedding, half-split (transformers, llama/modeling_llama.py rotate_half): element j of the first
// half of a head is paired with element j of the second half; (a, b) -> (a cos - b sin, b cos + a sin).
#ifndef VLM_MODEL_OPS_ROTARY_H_
#define VLM_MODEL_OPS_ROTARY_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace vlm::model::ops {

// fp32 [2, N, E/2]: cos and sin of position * theta^(-2j/E), computed in fp32 as the reference does.
at::Tensor RotaryTable(const at::Tensor& positions_N, double theta, int64_t head_size);

// The definition; differentiable. x is [N, heads, E]; the table is cast to the type of x first.
at::Tensor Rotate(const at::Tensor& x_NHE, const at::Tensor& table);

// dst = rotated src, or rotated back (`inverse`, which is also the gradient of Rotate). dst may be src itself. Both
// [N, heads, E] with unit stride in E; no gradient is recorded.
void RotateInto(const at::Tensor& src_NHE, const at::Tensor& table, bool inverse, at::Tensor dst_NHE);

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_ROTARY_H_
