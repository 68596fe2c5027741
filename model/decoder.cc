#include "model/decoder.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <utility>

#include "model/ops/activation.h"
#include "model/ops/attention.h"
#include "model/ops/linear.h"
#include "model/ops/norm.h"
#include "model/ops/rotary.h"
#include "model/ops/rows.h"

namespace vlm::model {
namespace {

using ops::AttentionInput;
using ops::AttentionRule;
using ops::AttentionTape;
using ops::LinearGroup;

class RotaryUnit : public Unit {
 public:
  explicit RotaryUnit(const TextConfig& config) : theta_(config.rope_theta), size_(config.HeadSize()) {}
  Declaration Declare() const override {
    return {{}, {}, {{"rotary", {int64_t{2}, Axis::kTokens, size_ / 2}, ScalarKind::kFp32, false}}};
  }
  Values Forward(const UnitContext& context, const Params&, const Values&) const override {
    return {ops::RotaryTable(context.batch->positions_N, theta_, size_)};
  }

 private:
  double theta_;
  int64_t size_;
};

class EmbeddingTape : public Tape {
 public:
  EmbeddingTape(at::Tensor ids_N, at::Tensor out) : ids_N_(std::move(ids_N)), outputs_{std::move(out)} {}
  const Values& outputs() const override { return outputs_; }
  Values Backward(const Values& grad_outputs, GradSink* sink) override {
    if (sink->slots[0].defined() && grad_outputs[0].defined()) {
      ops::AddEmbeddingGradient(grad_outputs[0], ids_N_, sink->slots[0]);
    }
    return {};
  }

 private:
  at::Tensor ids_N_;
  Values outputs_;
};

class EmbeddingUnit : public Unit {
 public:
  EmbeddingUnit(const TextConfig& config, std::string weight_name, std::string output)
      : config_(config), weight_name_(std::move(weight_name)), output_(std::move(output)) {}
  Declaration Declare() const override {
    const Init init{Init::Kind::kNormal, config_.initializer_range};
    return {
        {{weight_name_, {config_.vocab_size, config_.hidden_size}, Encoding::kCompute, init, DecayClass::kEmbedding}},
        {},
        {{output_, {Axis::kTokens, config_.hidden_size}}}};
  }
  Values Forward(const UnitContext& context, const Params& params, const Values&) const override {
    return {ops::Embed(params[0], context.batch->ids_N)};
  }
  std::unique_ptr<Tape> Record(const UnitContext& context, const Params& params, const std::vector<bool>& trainable,
                               const Values& in, const std::vector<bool>& needs_grad, Save save) const override {
    if (save == Save::kNothing) return Unit::Record(context, params, trainable, in, needs_grad, save);
    const c10::NoGradGuard no_grad;
    return std::make_unique<EmbeddingTape>(context.batch->ids_N, ops::Embed(params[0], context.batch->ids_N));
  }

 private:
  TextConfig config_;
  std::string weight_name_, output_;
};

// Order of a block's parameters. Layers that share an input are neighbours, so that in a bucket their weights (and
// their biases) can lie side by side and be one GEMM.
enum BlockParam {
  kInputNorm,
  kQWeight,
  kKWeight,
  kVWeight,
  kQBias,
  kKBias,
  kVBias,
  kOWeight,
  kPostNorm,
  kGateWeight,
  kUpWeight,
  kDownWeight,
};
const LinearGroup& Qkv() {
  static const LinearGroup group = {{kQWeight, kQBias}, {kKWeight, kKBias}, {kVWeight, kVBias}};
  return group;
}
const LinearGroup& GateUp() {
  static const LinearGroup group = {{kGateWeight}, {kUpWeight}};
  return group;
}
const LinearGroup& Output() {
  static const LinearGroup group = {{kOWeight}};
  return group;
}
const LinearGroup& Down() {
  static const LinearGroup group = {{kDownWeight}};
  return group;
}

struct BlockShape {
  int64_t hidden, heads, key_heads, size, feed_forward;
  double eps;

  // Views of q, k, v in one matrix [N, (H + 2G) E].
  AttentionInput Split(const at::Tensor& qkv) const {
    const int64_t rows = qkv.size(0);
    const auto part = [&](int64_t begin, int64_t count) {
      return qkv.narrow(1, begin * size, count * size).view({rows, count, size});
    };
    return {part(0, heads), part(heads, key_heads), part(heads + key_heads, key_heads)};
  }
};

// Everything the backward pass of a block reads.
struct BlockState {
  at::Tensor x, rotary, y, gate_up, activated;
  ops::Normalized norm1, norm2;
  AttentionTape attention;
};

class DecoderTape : public Tape {
 public:
  DecoderTape(BlockShape shape, Params params, bool input_grad, BlockState state, at::Tensor out)
      : shape_(shape),
        params_(std::move(params)),
        input_grad_(input_grad),
        state_(std::move(state)),
        outputs_{std::move(out)} {}
  const Values& outputs() const override { return outputs_; }

  Values Backward(const Values& grad_outputs, GradSink* sink) override {
    if (!grad_outputs[0].defined()) return Values(2);
    const c10::NoGradGuard no_grad;
    const at::Tensor d_out = grad_outputs[0].contiguous();
    BlockState& s = state_;
    ops::AddLinearParameterGradients(params_, Down(), d_out, s.activated, sink);
    const at::Tensor d_activated = ops::LinearInputGradient(params_, Down(), d_out);
    const at::Tensor d_gate_up = ops::SwiGluBackward(d_activated, s.gate_up);
    ops::AddLinearParameterGradients(params_, GateUp(), d_gate_up, s.norm2.y_ND, sink);
    const at::Tensor d_y = ops::RmsNormBackward(ops::LinearInputGradient(params_, GateUp(), d_gate_up), s.y,
                                                params_[kPostNorm], s.norm2, {d_out, sink->slots[kPostNorm], {}});
    const at::Tensor d_qkv = AttentionBackward(d_y, sink);
    ops::AddLinearParameterGradients(params_, Qkv(), d_qkv, s.norm1.y_ND, sink);
    if (!input_grad_ && !sink->slots[kInputNorm].defined()) return Values(2);
    const at::Tensor d_x = ops::RmsNormBackward(ops::LinearInputGradient(params_, Qkv(), d_qkv), s.x,
                                                params_[kInputNorm], s.norm1, {d_y, sink->slots[kInputNorm], {}});
    return {input_grad_ ? d_x : at::Tensor(), {}};
  }

 private:
  at::Tensor AttentionBackward(const at::Tensor& d_y, GradSink* sink) {
    const at::Tensor attended = state_.attention.out_NHE().flatten(1);
    ops::AddLinearParameterGradients(params_, Output(), d_y, attended, sink);
    const at::Tensor d_attended = ops::LinearInputGradient(params_, Output(), d_y);
    at::Tensor d_qkv = at::empty({d_y.size(0), (shape_.heads + 2 * shape_.key_heads) * shape_.size}, d_y.options());
    const AttentionInput d = shape_.Split(d_qkv);
    state_.attention.Backward(d_attended.view({d_y.size(0), shape_.heads, shape_.size}), d);
    ops::RotateInto(d.q_NHE, state_.rotary, /*inverse=*/true, d.q_NHE);
    ops::RotateInto(d.k_NGE, state_.rotary, /*inverse=*/true, d.k_NGE);
    return d_qkv;
  }

  BlockShape shape_;
  Params params_;
  bool input_grad_;
  BlockState state_;
  Values outputs_;
};

class DecoderBlock : public Unit {
 public:
  DecoderBlock(const TextConfig& config, std::string prefix, std::string input, std::string output)
      : prefix_(std::move(prefix)),
        input_(std::move(input)),
        output_(std::move(output)),
        deviation_(config.initializer_range),
        shape_{config.hidden_size, config.num_attention_heads, config.num_key_value_heads,
               config.HeadSize(),  config.intermediate_size,   config.rms_norm_eps} {}

  Declaration Declare() const override {
    const int64_t d = shape_.hidden, q = shape_.heads * shape_.size, k = shape_.key_heads * shape_.size;
    const auto matrix = [&](const char* name, int64_t rows, int64_t columns) {
      return ParamSpec{
          prefix_ + name, {rows, columns}, Encoding::kCompute, {Init::Kind::kNormal, deviation_}, DecayClass::kMatrix};
    };
    const auto vector = [&](const char* name, int64_t size, Init::Kind init) {
      return ParamSpec{prefix_ + name, {size}, Encoding::kCompute, {init, 0}, DecayClass::kNormOrBias};
    };
    return {
        {vector("input_layernorm.weight", d, Init::Kind::kOnes), matrix("self_attn.q_proj.weight", q, d),
         matrix("self_attn.k_proj.weight", k, d), matrix("self_attn.v_proj.weight", k, d),
         vector("self_attn.q_proj.bias", q, Init::Kind::kZeros), vector("self_attn.k_proj.bias", k, Init::Kind::kZeros),
         vector("self_attn.v_proj.bias", k, Init::Kind::kZeros), matrix("self_attn.o_proj.weight", d, q),
         vector("post_attention_layernorm.weight", d, Init::Kind::kOnes),
         matrix("mlp.gate_proj.weight", shape_.feed_forward, d), matrix("mlp.up_proj.weight", shape_.feed_forward, d),
         matrix("mlp.down_proj.weight", d, shape_.feed_forward)},
        {input_, "rotary"},
        {{output_, {Axis::kTokens, d}}}};
  }

  Values Forward(const UnitContext& context, const Params& params, const Values& in) const override {
    const at::Tensor &x = in[0], &rotary = in[1];
    if (!c10::GradMode::is_enabled()) return {Run(context, params, x, rotary, nullptr)};
    const AttentionInput qkv =
        shape_.Split(ops::Linear(params, Qkv(), ops::RmsNorm(x, params[kInputNorm], shape_.eps)));
    const at::Tensor attended =
        ops::Attention({ops::Rotate(qkv.q_NHE, rotary), ops::Rotate(qkv.k_NGE, rotary), qkv.v_NGE},
                       context.batch->document_starts, AttentionRule::kCausal);
    const at::Tensor y = ops::LinearAdd(params, Output()[0], attended.flatten(1), x);
    const at::Tensor gate_up = ops::Linear(params, GateUp(), ops::RmsNorm(y, params[kPostNorm], shape_.eps));
    return {ops::LinearAdd(params, Down()[0], ops::SwiGlu(gate_up), y)};
  }

  std::unique_ptr<Tape> Record(const UnitContext& context, const Params& params, const std::vector<bool>& trainable,
                               const Values& in, const std::vector<bool>& needs_grad, Save save) const override {
    if (save != Save::kGraph) return Unit::Record(context, params, trainable, in, needs_grad, save);
    const c10::NoGradGuard no_grad;
    BlockState state;
    at::Tensor out = Run(context, params, in[0], in[1], &state);
    return std::make_unique<DecoderTape>(shape_, params, needs_grad[0], std::move(state), std::move(out));
  }

  // Kept is BlockState: both norms with their rows' factors, qkv, what attention gave and its log-sum-exp, y, gate and
  // up, their product. Backward holds the gradients of most of these at its end.
  Footprint Needs(const Counts& counts, int64_t element_bytes) const override {
    const int64_t d = shape_.hidden, f = shape_.feed_forward, heads = shape_.heads * shape_.size;
    const int64_t qkv = heads + 2 * shape_.key_heads * shape_.size, rows = element_bytes * counts.tokens;
    return {.kept = rows * (3 * d + qkv + heads + 3 * f) + 4 * counts.tokens * (shape_.heads + 2),
            .forward = rows * heads,
            .backward = rows * (3 * f + 3 * d + heads + qkv)};
  }

 private:
  // The forward pass without autograd; keeps what Backward needs when `state` is given.
  at::Tensor Run(const UnitContext& context, const Params& params, const at::Tensor& input, const at::Tensor& rotary,
                 BlockState* state) const {
    const at::Tensor x = input.contiguous();
    ops::Normalized norm1 = ops::RmsNormForward(x, params[kInputNorm], shape_.eps);
    const at::Tensor matrix = ops::Linear(params, Qkv(), norm1.y_ND);
    const AttentionInput qkv = shape_.Split(matrix);
    ops::RotateInto(qkv.q_NHE, rotary, /*inverse=*/false, qkv.q_NHE);
    ops::RotateInto(qkv.k_NGE, rotary, /*inverse=*/false, qkv.k_NGE);
    const std::vector<int64_t>& starts = context.batch->document_starts;
    if (context.cache != nullptr) context.cache->Append(qkv.k_NGE, qkv.v_NGE, starts);
    at::Tensor attended;
    if (context.phase == Phase::kDecode) {
      attended = ops::DecodeAttention(qkv.q_NHE, *context.cache);
    } else {
      AttentionTape attention = AttentionTape::Record(qkv, starts, AttentionRule::kCausal);
      attended = attention.out_NHE();
      if (state != nullptr) state->attention = std::move(attention);
    }
    const at::Tensor y = ops::LinearAdd(params, Output()[0], attended.flatten(1), x);
    ops::Normalized norm2 = ops::RmsNormForward(y, params[kPostNorm], shape_.eps);
    const at::Tensor gate_up = ops::Linear(params, GateUp(), norm2.y_ND);
    const at::Tensor activated = ops::SwiGlu(gate_up);
    at::Tensor out = ops::LinearAdd(params, Down()[0], activated, y);
    if (state != nullptr) {
      state->x = x, state->rotary = rotary, state->y = y, state->gate_up = gate_up, state->activated = activated;
      state->norm1 = std::move(norm1), state->norm2 = std::move(norm2);
    }
    return out;
  }

  std::string prefix_, input_, output_;
  double deviation_;
  BlockShape shape_;
};

}  // namespace

std::unique_ptr<Unit> NewRotaryUnit(const TextConfig& config) { return std::make_unique<RotaryUnit>(config); }

std::unique_ptr<Unit> NewEmbeddingUnit(const TextConfig& config, std::string weight_name, std::string output) {
  return std::make_unique<EmbeddingUnit>(config, std::move(weight_name), std::move(output));
}

std::unique_ptr<Unit> NewDecoderBlock(const TextConfig& config, std::string prefix, std::string input,
                                      std::string output) {
  return std::make_unique<DecoderBlock>(config, std::move(prefix), std::move(input), std::move(output));
}

}  // namespace vlm::model
