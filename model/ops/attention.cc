#include "model/ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "model/ops/exp.h"
#include "model/ops/parallel.h"
#include "model/ops/short_attention.h"

namespace vlm::model::ops {
namespace {

// Decided by shape and type alone, so that the bits depend on neither threads nor neighbours.
bool FitsShortAttention(const at::Tensor& q_NHE) {
  return q_NHE.scalar_type() == at::kFloat && q_NHE.size(2) <= kShortAttentionSizeMax;
}

// Runs of consecutive documents of one length above `shorter_excluded`, cut into calls. With several key/value heads
// shared by several query heads a call can walk either documents or key/value heads; the shorter list of calls is
// taken. A kernel call treats every (batch, head) by itself, so the cut does not change bits.
std::vector<AttentionCall> PlanCalls(const std::vector<int64_t>& starts, const AttentionInput& in,
                                     int64_t shorter_excluded) {
  std::vector<AttentionCall> calls;
  const int64_t query_heads = in.q_NHE.size(1), key_heads = in.k_NGE.size(1), repeat = query_heads / key_heads;
  for (size_t d = 0; d + 1 < starts.size();) {
    const int64_t first = starts[d], length = starts[d + 1] - first;
    int64_t count = 1;
    while (d + count + 1 < starts.size() && starts[d + count + 1] - starts[d + count] == length) ++count;
    d += count;
    if (length <= shorter_excluded) continue;
    if (repeat == 1 || key_heads == 1) {
      calls.push_back({first, length, count, query_heads, 1, 0, repeat > 1, {}, {}});
    } else if (count < key_heads) {
      for (int64_t i = 0; i < count; ++i) {
        calls.push_back({first + i * length, length, key_heads, repeat, 0, 0, true, {}, {}});
      }
    } else {
      for (int64_t g = 0; g < key_heads; ++g) {
        calls.push_back({first, length, count, repeat, 1, g * repeat, true, {}, {}});
      }
    }
  }
  return calls;
}

// [batch, heads, T, E] view of x [N, heads of x, E] for one call. `repeat`: query heads per head of x (1 for q and the
// output); a head axis of stride 0 lets several query heads read one key/value head without a copy.
at::Tensor View(const AttentionCall& call, const at::Tensor& x, int64_t repeat) {
  const int64_t row = x.stride(0), head = x.stride(1);
  const bool shared = repeat > 1;
  const int64_t batch_stride = call.batch_is_documents ? call.length * row : (shared ? head : call.heads * head);
  const int64_t offset = x.storage_offset() + call.first_token * row + (call.first_head / repeat) * head;
  return x.as_strided({call.batch, call.heads, call.length, x.size(2)},
                      {batch_stride, shared ? 0 : head, row, x.stride(2)}, offset);
}

at::Tensor DefinitionOfDocument(const AttentionInput& in, int64_t begin, int64_t length, AttentionRule rule) {
  const auto heads_first = [&](const at::Tensor& x) { return x.narrow(0, begin, length).transpose(0, 1).unsqueeze(0); };
  const bool grouped = in.q_NHE.size(1) != in.k_NGE.size(1);
  const at::Tensor out = at::scaled_dot_product_attention(
      heads_first(in.q_NHE), heads_first(in.k_NGE), heads_first(in.v_NGE), /*attn_mask=*/{}, /*dropout_p=*/0.0,
      rule == AttentionRule::kCausal, /*scale=*/std::nullopt, grouped);
  return out.squeeze(0).transpose(0, 1);
}

MutableRows RowsOf(const at::Tensor& x, int64_t token, int64_t head) {
  return {x.mutable_data_ptr<float>() + token * x.stride(0) + head * x.stride(1), x.stride(0)};
}
ConstRows ConstRowsOf(const at::Tensor& x, int64_t token, int64_t head) {
  return {x.const_data_ptr<float>() + token * x.stride(0) + head * x.stride(1), x.stride(0)};
}

// One document's query heads that share key/value head `group`.
ShortAttention ShortAttentionOf(const AttentionInput& in, const ShortDocument& document, int64_t group,
                                AttentionRule rule) {
  const int64_t repeat = in.q_NHE.size(1) / in.k_NGE.size(1), token = document.first_token;
  return {document.length,
          in.q_NHE.size(2),
          repeat,
          rule == AttentionRule::kCausal,
          ConstRowsOf(in.q_NHE, token, group * repeat),
          ConstRowsOf(in.k_NGE, token, group),
          ConstRowsOf(in.v_NGE, token, group),
          in.q_NHE.stride(1)};
}

// body(document, group) for every short document and key/value head, on ATen's threads.
template <typename Body>
void ForEachGroup(const std::vector<ShortDocument>& documents, int64_t groups, const Body& body) {
  ParallelFor(static_cast<int64_t>(documents.size()) * groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(documents[i / groups], i % groups);
  });
}

// Softmax of q.k over the cached rows, one document. Scores go to `scratch` [length].
__attribute__((always_inline)) inline void DecodeHead(const float* q, const float* keys, const float* values,
                                                      int64_t length, int64_t row, int64_t size, float* scratch,
                                                      float* out) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  float largest = -INFINITY;
  for (int64_t t = 0; t < length; ++t) {
    const float* key = keys + t * row;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < size; ++j) sum += q[j] * key[j];
    scratch[t] = sum * scale;
    largest = std::max(largest, scratch[t]);
  }
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t t = 0; t < length; ++t) {
    scratch[t] = Exp(scratch[t] - largest);
    total += scratch[t];
  }
  std::fill(out, out + size, 0.0f);
  for (int64_t t = 0; t < length; ++t) {
    const float weight = scratch[t] / total;
    const float* value = values + t * row;
#pragma omp simd
    for (int64_t j = 0; j < size; ++j) out[j] += weight * value[j];
  }
}

}  // namespace

at::Tensor Attention(const AttentionInput& in, const std::vector<int64_t>& document_starts, AttentionRule rule) {
  std::vector<at::Tensor> documents;
  for (size_t d = 0; d + 1 < document_starts.size(); ++d) {
    const int64_t begin = document_starts[d];
    documents.push_back(DefinitionOfDocument(in, begin, document_starts[d + 1] - begin, rule));
  }
  return at::cat(documents, 0);
}

AttentionTape AttentionTape::Record(const AttentionInput& in, const std::vector<int64_t>& document_starts,
                                    AttentionRule rule) {
  AttentionTape tape;
  tape.rule_ = rule;
  if (!in.q_NHE.is_cpu()) {
    const c10::AutoGradMode recording(true);
    const auto leaf = [](const at::Tensor& x) { return x.detach().requires_grad_(true); };
    tape.in_ = {leaf(in.q_NHE), leaf(in.k_NGE), leaf(in.v_NGE)};
    tape.recorded_out_ = Attention(tape.in_, document_starts, rule);
    tape.out_NHE_ = tape.recorded_out_.detach().contiguous();
    return tape;
  }
  const c10::NoGradGuard no_grad;
  tape.in_ = in;
  const int64_t repeat = in.q_NHE.size(1) / in.k_NGE.size(1);
  const int64_t short_max = FitsShortAttention(in.q_NHE) ? kShortAttentionTokensMax : 0;
  tape.calls_ = PlanCalls(document_starts, in, short_max);
  for (AttentionCall& call : tape.calls_) {
    std::tie(call.out, call.log_sum_exp) = at::_scaled_dot_product_flash_attention_for_cpu(
        View(call, in.q_NHE, 1), View(call, in.k_NGE, call.shared_key ? repeat : 1),
        View(call, in.v_NGE, call.shared_key ? repeat : 1), 0.0, rule == AttentionRule::kCausal);
  }
  for (size_t d = 0; d + 1 < document_starts.size(); ++d) {
    const int64_t length = document_starts[d + 1] - document_starts[d];
    if (length > 0 && length <= short_max) tape.short_documents_.push_back({document_starts[d], length});
  }
  if (tape.short_documents_.empty() && tape.calls_.size() == 1 && tape.calls_[0].batch_is_documents) {
    // The kernel lays its output out as [batch, T, heads, E]: already the flat token axis.
    tape.out_NHE_ = tape.calls_[0].out.transpose(1, 2).reshape(in.q_NHE.sizes());
    return tape;
  }
  tape.out_NHE_ = at::empty(in.q_NHE.sizes(), in.q_NHE.options());
  for (AttentionCall& call : tape.calls_) {
    at::Tensor place = View(call, tape.out_NHE_, 1);
    place.copy_(call.out);
    call.out = place;
  }
  tape.RecordShortDocuments();
  return tape;
}

void AttentionTape::RecordShortDocuments() {
  if (short_documents_.empty()) return;
  const int64_t groups = in_.k_NGE.size(1), repeat = in_.q_NHE.size(1) / groups;
  short_log_sum_exp_ = at::empty({in_.q_NHE.size(0), in_.q_NHE.size(1)}, in_.q_NHE.options());
  float* log_sum_exp = short_log_sum_exp_.mutable_data_ptr<float>();
  ForEachGroup(short_documents_, groups, [&](const ShortDocument& document, int64_t group) {
    ForwardShortAttention(ShortAttentionOf(in_, document, group, rule_),
                          {RowsOf(out_NHE_, document.first_token, group * repeat), out_NHE_.stride(1),
                           log_sum_exp + document.first_token * groups * repeat + group * repeat * document.length});
  });
}

void AttentionTape::BackwardShortDocuments(const at::Tensor& d_out_NHE, const AttentionInput& d) const {
  if (short_documents_.empty()) return;
  const int64_t groups = in_.k_NGE.size(1), repeat = in_.q_NHE.size(1) / groups;
  const float* log_sum_exp = short_log_sum_exp_.const_data_ptr<float>();
  ForEachGroup(short_documents_, groups, [&](const ShortDocument& document, int64_t group) {
    const int64_t token = document.first_token, head = group * repeat;
    BackwardShortAttention(
        ShortAttentionOf(in_, document, group, rule_),
        {ConstRowsOf(out_NHE_, token, head), ConstRowsOf(d_out_NHE, token, head), out_NHE_.stride(1),
         log_sum_exp + token * groups * repeat + head * document.length, RowsOf(d.q_NHE, token, head),
         RowsOf(d.k_NGE, token, group), RowsOf(d.v_NGE, token, group), d.q_NHE.stride(1)});
  });
}

void AttentionTape::Backward(const at::Tensor& d_out_NHE, AttentionInput d) {
  if (recorded_out_.defined()) {
    recorded_out_.backward(d_out_NHE);
    d.q_NHE.copy_(in_.q_NHE.grad());
    d.k_NGE.copy_(in_.k_NGE.grad());
    d.v_NGE.copy_(in_.v_NGE.grad());
    return;
  }
  const c10::NoGradGuard no_grad;
  const int64_t repeat = in_.q_NHE.size(1) / in_.k_NGE.size(1);
  const at::Tensor d_out = d_out_NHE.contiguous();
  for (const AttentionCall& call : calls_) {
    const int64_t key_repeat = call.shared_key ? repeat : 1;
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        View(call, d_out, 1), View(call, in_.q_NHE, 1), View(call, in_.k_NGE, key_repeat),
        View(call, in_.v_NGE, key_repeat), call.out, call.log_sum_exp, 0.0, rule_ == AttentionRule::kCausal);
    View(call, d.q_NHE, 1).copy_(dq);
    if (call.shared_key) {
      // Query heads of one key/value head are summed; the destination is one head wide.
      View(call, d.k_NGE, key_repeat).select(1, 0).copy_(dk.sum(1));
      View(call, d.v_NGE, key_repeat).select(1, 0).copy_(dv.sum(1));
    } else {
      View(call, d.k_NGE, 1).copy_(dk);
      View(call, d.v_NGE, 1).copy_(dv);
    }
  }
  BackwardShortDocuments(d_out, d);
}

at::Tensor DecodeAttention(const at::Tensor& q_BHE, const LayerCache& cache) {
  const int64_t documents = q_BHE.size(0), heads = q_BHE.size(1), size = q_BHE.size(2);
  at::Tensor out = at::empty(q_BHE.sizes(), q_BHE.options());
  if (!q_BHE.is_cpu() || q_BHE.scalar_type() != at::kFloat) {
    const auto heads_first = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
    for (int64_t b = 0; b < documents; ++b) {
      const at::Tensor keys = cache.Keys(b);
      const at::Tensor one = at::scaled_dot_product_attention(heads_first(q_BHE.narrow(0, b, 1)), heads_first(keys),
                                                              heads_first(cache.Values(b)), {}, 0.0, false,
                                                              std::nullopt, heads != keys.size(1));
      out[b].copy_(one.squeeze(0).squeeze(1));
    }
    return out;
  }
  const at::Tensor q = q_BHE.contiguous();
  const at::Tensor &keys = cache.keys_RCGE(), &values = cache.values_RCGE();
  const int64_t token = keys.stride(1), repeat = heads / keys.size(2);
  const float *queries = q.const_data_ptr<float>(), *all_keys = keys.const_data_ptr<float>();
  const float* all_values = values.const_data_ptr<float>();
  float* results = out.mutable_data_ptr<float>();
  ParallelRows(documents, 1, [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
    std::vector<float> scratch;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t row = cache.Row(b), length = cache.Length(row);
      scratch.resize(length);
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = (b * heads + h) * size, head = row * keys.stride(0) + h / repeat * size;
        DecodeHead(queries + at, all_keys + head, all_values + head, length, token, size, scratch.data(), results + at);
      }
    }
  });
  return out;
}

}  // namespace vlm::model::ops
