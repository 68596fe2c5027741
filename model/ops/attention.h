// Attention over a flat token axis with document starts. No mask matrix: documents never see each other because they
// are never multiplied with each other.
//
// q [N, H, E], k and v [N, G, E], G divides H: query head h reads key/value head h / (H / G). Unit stride in E, one
// stride per axis otherwise (slices of one qkv matrix are fine). Scale 1/sqrt(E), softmax in fp32 or wider. A batch of
// I pictures with P patches is I documents of P tokens with the bidirectional rule.
#ifndef VLM_MODEL_OPS_ATTENTION_H_
#define VLM_MODEL_OPS_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/layer_cache.h"

namespace vlm::model::ops {

enum class AttentionRule { kCausal, kBidirectional };

struct AttentionInput {
  at::Tensor q_NHE, k_NGE, v_NGE;
};

// The definition: ATen scaled_dot_product_attention, one call per document. [N, H, E]; differentiable.
at::Tensor Attention(const AttentionInput& in, const std::vector<int64_t>& document_starts, AttentionRule rule);

// One kernel call: `batch` documents of equal length (or key/value heads) times `heads`, as strided views.
struct AttentionCall {
  int64_t first_token = 0, length = 0, batch = 0, heads = 0;
  int64_t batch_is_documents = 1;  // 0: the batch axis walks key/value heads of one document
  int64_t first_head = 0;          // query head of the first of `heads`
  bool shared_key = false;         // all `heads` read one key/value head
  at::Tensor out, log_sum_exp;
};

struct ShortDocument {
  int64_t first_token = 0, length = 0;
};

// A forward pass that can be followed by Backward. On the CPU ShortAttention for short documents in fp32 and
// hand-batched flash calls for others; the definition elsewhere.
class AttentionTape {
 public:
  static AttentionTape Record(const AttentionInput& in, const std::vector<int64_t>& document_starts,
                              AttentionRule rule);
  const at::Tensor& out_NHE() const { return out_NHE_; }  // contiguous
  // Writes (does not add) the gradients into `d`, whose tensors have the shapes of the inputs. Call once.
  void Backward(const at::Tensor& d_out_NHE, AttentionInput d);

 private:
  void RecordShortDocuments();
  void BackwardShortDocuments(const at::Tensor& d_out_NHE, const AttentionInput& d) const;

  AttentionInput in_;
  AttentionRule rule_ = AttentionRule::kCausal;
  at::Tensor out_NHE_;
  std::vector<AttentionCall> calls_;
  std::vector<ShortDocument> short_documents_;
  at::Tensor short_log_sum_exp_;  // by document, then head, then token
  at::Tensor recorded_out_;       // defined: the graph of out_NHE_ was recorded by autograd
};

// One new token per document against everything its row of the cache holds (the token itself included): q [B, H, E]
// for B documents -> [B, H, E]. No gradient.
at::Tensor DecodeAttention(const at::Tensor& q_BHE, const LayerCache& cache);

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_ATTENTION_H_
