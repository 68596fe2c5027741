// Attention of one document that fits a core's cache, in fp32 on the CPU: what ATen's kernel computes, without its
// calls of a BLAS for blocks of a few kilobytes, and without the half of the scores that a causal rule throws away.
//
// One call serves the query heads that share a key/value head, one after another, so sums have one order. Reference:
// Dao, "FlashAttention-2" (arXiv 2307.08691), section 3.1, with one block of keys.
#ifndef VLM_MODEL_OPS_SHORT_ATTENTION_H_
#define VLM_MODEL_OPS_SHORT_ATTENTION_H_

#include <cstdint>

namespace vlm::model::ops {

// Longer documents, and wider heads, no longer fit and are better served by ATen.
inline constexpr int64_t kShortAttentionTokensMax = 512;
inline constexpr int64_t kShortAttentionSizeMax = 128;

// T rows of E numbers, unit stride in E, `row` numbers from one row to the next.
struct ConstRows {
  const float* data;
  int64_t row;
};
struct MutableRows {
  float* data;
  int64_t row;
};

// Query head h of the group lies `head` numbers behind the first, in every array of query heads.
struct ShortAttention {
  int64_t length = 0, size = 0;  // T, E
  int64_t query_heads = 0;       // of the group
  bool causal = false;
  ConstRows q, k, v;
  int64_t q_head = 0;  // from one query head of the group to the next
};

// Writes the output rows of each query head (`out`, next head `out_head` further) and their log-sum-exp, [heads, T].
struct ShortAttentionOutput {
  MutableRows out;
  int64_t out_head = 0;
  float* lse = nullptr;
};
void ForwardShortAttention(const ShortAttention& attention, const ShortAttentionOutput& output);

// Writes (does not add) the gradients; dk and dv are summed over the group's query heads in order.
struct ShortAttentionGradient {
  ConstRows out, d_out;  // next query head `out_head` further in both
  int64_t out_head = 0;
  const float* lse = nullptr;
  MutableRows dq, dk, dv;
  int64_t dq_head = 0;
};
void BackwardShortAttention(const ShortAttention& attention, const ShortAttentionGradient& gradient);

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_SHORT_ATTENTION_H_
