#include "model/vision.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <utility>

#include "model/ops/activation.h"
#include "model/ops/attention.h"
#include "model/ops/linear.h"
#include "model/ops/norm.h"
#include "model/ops/rows.h"

namespace vlm::model {
namespace {

using ops::AttentionInput;
using ops::AttentionRule;
using ops::AttentionTape;
using ops::GeluKind;
using ops::LinearGroup;

ParamSpec Matrix(std::string name, int64_t rows, int64_t columns, Init init) {
  return {std::move(name), {rows, columns}, Encoding::kCompute, init, DecayClass::kMatrix};
}
ParamSpec Vector(std::string name, int64_t size, Init::Kind kind) {
  return {std::move(name), {size}, Encoding::kCompute, {kind, 0}, DecayClass::kNormOrBias};
}
// xavier_uniform_: variance 2 / (fan_in + fan_out).
Init Xavier(int64_t rows, int64_t columns) {
  return {Init::Kind::kUniform, std::sqrt(2.0 / static_cast<double>(rows + columns))};
}

enum PatchParam { kPatchWeight, kPatchBias, kPosition };

class PatchEmbeddingTape : public Tape {
 public:
  PatchEmbeddingTape(at::Tensor patches, int64_t images, at::Tensor out)
      : patches_(std::move(patches)), images_(images), outputs_{std::move(out)} {}
  const Values& outputs() const override { return outputs_; }
  Values Backward(const Values& grad_outputs, GradSink* sink) override {
    if (!grad_outputs[0].defined()) return {};
    const c10::NoGradGuard no_grad;
    const at::Tensor dy = grad_outputs[0].contiguous();
    if (at::Tensor slot = sink->slots[kPosition]; slot.defined()) {
      // Pictures in order, whatever their number; in bf16 a sum would soon be too large for one picture to move it.
      const bool rounds = slot.scalar_type() == at::kBFloat16;
      at::Tensor sum = rounds ? at::zeros(slot.sizes(), slot.options().dtype(at::kFloat)) : slot;
      for (const at::Tensor& image : dy.chunk(images_, 0)) sum.add_(image);
      if (rounds) slot.add_(sum);
    }
    GradSink flat;
    const at::Tensor weight_slot = sink->slots[kPatchWeight];
    flat.slots = {weight_slot.defined() ? weight_slot.view({dy.size(1), -1}) : at::Tensor(), sink->slots[kPatchBias]};
    const Params shape_only = {dy.new_empty({dy.size(1), 0})};
    ops::AddLinearParameterGradients(shape_only, {{kPatchWeight, kPatchBias}}, dy, patches_, &flat);
    return {};
  }

 private:
  at::Tensor patches_;
  int64_t images_;
  Values outputs_;
};

class PatchEmbeddingUnit : public Unit {
 public:
  PatchEmbeddingUnit(const VisionConfig& config, std::string prefix, std::string output)
      : config_(config), prefix_(std::move(prefix)), output_(std::move(output)) {}

  Declaration Declare() const override {
    const int64_t c = config_.hidden_size, p = config_.patch_size;
    const auto deviation = [](double fan) { return Init{Init::Kind::kNormal, 1.0 / std::sqrt(fan)}; };
    return {{{prefix_ + "patch_embedding.weight",
              {c, kChannels, p, p},
              Encoding::kCompute,
              deviation(static_cast<double>(kChannels * p * p)),
              DecayClass::kMatrix},
             Vector(prefix_ + "patch_embedding.bias", c, Init::Kind::kZeros),
             {prefix_ + "position_embedding.weight",
              {config_.Patches(), c},
              Encoding::kCompute,
              deviation(static_cast<double>(c)),
              DecayClass::kEmbedding}},
            {},
            {{output_, {Axis::kVisionTokens, c}}}};
  }

  Values Forward(const UnitContext& context, const Params& params, const Values&) const override {
    return {Run(params, Patches(context.batch->pixels, params[kPatchWeight].scalar_type()))};
  }

  std::unique_ptr<Tape> Record(const UnitContext& context, const Params& params, const std::vector<bool>& trainable,
                               const Values& in, const std::vector<bool>& needs_grad, Save save) const override {
    if (save != Save::kGraph) return Unit::Record(context, params, trainable, in, needs_grad, save);
    const c10::NoGradGuard no_grad;
    const at::Tensor patches = Patches(context.batch->pixels, params[kPatchWeight].scalar_type());
    return std::make_unique<PatchEmbeddingTape>(patches, context.batch->pixels.size(0), Run(params, patches));
  }

  // Kept: the patches cut out.
  Footprint Needs(const Counts& counts, int64_t element_bytes) const override {
    const int64_t patch = kChannels * config_.patch_size * config_.patch_size;
    const int64_t rows = element_bytes * counts.images * config_.Patches();
    return {.kept = rows * patch, .forward = rows * config_.hidden_size, .backward = rows * config_.hidden_size};
  }

 private:
  static constexpr int64_t kChannels = 3;

  // A convolution whose stride is its size is a matrix product over cut-out patches: [I * P, 3 * p * p].
  at::Tensor Patches(const at::Tensor& pixels, at::ScalarType type) const {
    const int64_t p = config_.patch_size, images = pixels.size(0), side = config_.image_size / p;
    return pixels.to(type)
        .view({images, kChannels, side, p, side, p})
        .permute({0, 2, 4, 1, 3, 5})
        .reshape({images * side * side, kChannels * p * p});
  }

  at::Tensor Run(const Params& params, const at::Tensor& patches) const {
    const Params flat = {params[kPatchWeight].flatten(1), params[kPatchBias]};
    const at::Tensor embedded = ops::Linear(flat, {{kPatchWeight, kPatchBias}}, patches);
    const int64_t images = patches.size(0) / config_.Patches();
    return (embedded.view({images, config_.Patches(), -1}) + params[kPosition]).flatten(0, 1);
  }

  VisionConfig config_;
  std::string prefix_, output_;
};

// Order of a block's parameters; as in the decoder, layers that share an input are neighbours.
enum BlockParam {
  kNorm1Weight,
  kNorm1Bias,
  kQWeight,
  kKWeight,
  kVWeight,
  kQBias,
  kKBias,
  kVBias,
  kOutWeight,
  kOutBias,
  kNorm2Weight,
  kNorm2Bias,
  kFc1Weight,
  kFc1Bias,
  kFc2Weight,
  kFc2Bias,
};
const LinearGroup& Qkv() {
  static const LinearGroup group = {{kQWeight, kQBias}, {kKWeight, kKBias}, {kVWeight, kVBias}};
  return group;
}
const LinearGroup& Out() {
  static const LinearGroup group = {{kOutWeight, kOutBias}};
  return group;
}
const LinearGroup& Fc1() {
  static const LinearGroup group = {{kFc1Weight, kFc1Bias}};
  return group;
}
const LinearGroup& Fc2() {
  static const LinearGroup group = {{kFc2Weight, kFc2Bias}};
  return group;
}

struct BlockShape {
  int64_t hidden, heads, feed_forward, patches;
  double eps;

  AttentionInput Split(const at::Tensor& qkv) const {
    const auto part = [&](int64_t i) {
      return qkv.narrow(1, i * hidden, hidden).view({qkv.size(0), heads, hidden / heads});
    };
    return {part(0), part(1), part(2)};
  }
  // Every picture is a document of its own.
  std::vector<int64_t> Starts(int64_t rows) const {
    std::vector<int64_t> starts;
    for (int64_t row = 0; row <= rows; row += patches) starts.push_back(row);
    return starts;
  }
};

struct BlockState {
  at::Tensor x, y, wide, activated;
  ops::Normalized norm1, norm2;
  AttentionTape attention;
};

class VisionTape : public Tape {
 public:
  VisionTape(BlockShape shape, Params params, bool input_grad, BlockState state, at::Tensor out)
      : shape_(shape),
        params_(std::move(params)),
        input_grad_(input_grad),
        state_(std::move(state)),
        outputs_{std::move(out)} {}
  const Values& outputs() const override { return outputs_; }

  Values Backward(const Values& grad_outputs, GradSink* sink) override {
    if (!grad_outputs[0].defined()) return Values(1);
    const c10::NoGradGuard no_grad;
    const std::vector<at::Tensor>& slots = sink->slots;
    const at::Tensor d_out = grad_outputs[0].contiguous();
    BlockState& s = state_;
    ops::AddLinearParameterGradients(params_, Fc2(), d_out, s.activated, sink);
    const at::Tensor d_wide =
        ops::GeluBackward(ops::LinearInputGradient(params_, Fc2(), d_out), s.wide, GeluKind::kTanh);
    ops::AddLinearParameterGradients(params_, Fc1(), d_wide, s.norm2.y_ND, sink);
    const at::Tensor d_y =
        ops::LayerNormBackward(ops::LinearInputGradient(params_, Fc1(), d_wide), s.y, params_[kNorm2Weight], s.norm2,
                               {d_out, slots[kNorm2Weight], slots[kNorm2Bias]});
    ops::AddLinearParameterGradients(params_, Out(), d_y, s.attention.out_NHE().flatten(1), sink);
    const at::Tensor d_attended = ops::LinearInputGradient(params_, Out(), d_y);
    at::Tensor d_qkv = at::empty({d_y.size(0), 3 * shape_.hidden}, d_y.options());
    s.attention.Backward(d_attended.view(s.attention.out_NHE().sizes()), shape_.Split(d_qkv));
    ops::AddLinearParameterGradients(params_, Qkv(), d_qkv, s.norm1.y_ND, sink);
    if (!input_grad_ && !slots[kNorm1Weight].defined() && !slots[kNorm1Bias].defined()) return Values(1);
    const at::Tensor d_x =
        ops::LayerNormBackward(ops::LinearInputGradient(params_, Qkv(), d_qkv), s.x, params_[kNorm1Weight], s.norm1,
                               {d_y, slots[kNorm1Weight], slots[kNorm1Bias]});
    return {input_grad_ ? d_x : at::Tensor()};
  }

 private:
  BlockShape shape_;
  Params params_;
  bool input_grad_;
  BlockState state_;
  Values outputs_;
};

class VisionBlock : public Unit {
 public:
  VisionBlock(const VisionConfig& config, std::string prefix, std::string input, std::string output)
      : prefix_(std::move(prefix)),
        input_(std::move(input)),
        output_(std::move(output)),
        shape_{config.hidden_size, config.num_attention_heads, config.intermediate_size, config.Patches(),
               config.layer_norm_eps} {}

  Declaration Declare() const override {
    const int64_t c = shape_.hidden, f = shape_.feed_forward;
    const auto matrix = [&](const char* name, int64_t rows, int64_t columns) {
      return Matrix(prefix_ + name, rows, columns, Xavier(rows, columns));
    };
    const auto zeros = [&](const char* name, int64_t size) { return Vector(prefix_ + name, size, Init::Kind::kZeros); };
    const auto ones = [&](const char* name, int64_t size) { return Vector(prefix_ + name, size, Init::Kind::kOnes); };
    return {{ones("layer_norm1.weight", c), zeros("layer_norm1.bias", c), matrix("self_attn.q_proj.weight", c, c),
             matrix("self_attn.k_proj.weight", c, c), matrix("self_attn.v_proj.weight", c, c),
             zeros("self_attn.q_proj.bias", c), zeros("self_attn.k_proj.bias", c), zeros("self_attn.v_proj.bias", c),
             matrix("self_attn.out_proj.weight", c, c), zeros("self_attn.out_proj.bias", c),
             ones("layer_norm2.weight", c), zeros("layer_norm2.bias", c), matrix("mlp.fc1.weight", f, c),
             zeros("mlp.fc1.bias", f), matrix("mlp.fc2.weight", c, f), zeros("mlp.fc2.bias", c)},
            {input_},
            {{output_, {Axis::kVisionTokens, c}}}};
  }

  Values Forward(const UnitContext&, const Params& params, const Values& in) const override {
    const at::Tensor& x = in[0];
    if (!c10::GradMode::is_enabled()) return {Run(params, x, nullptr)};
    const at::Tensor norm1 = ops::LayerNorm(x, params[kNorm1Weight], params[kNorm1Bias], shape_.eps);
    const AttentionInput qkv = shape_.Split(ops::Linear(params, Qkv(), norm1));
    const at::Tensor attended = ops::Attention(qkv, shape_.Starts(x.size(0)), AttentionRule::kBidirectional);
    const at::Tensor y = ops::LinearAdd(params, Out()[0], attended.flatten(1), x);
    const at::Tensor norm2 = ops::LayerNorm(y, params[kNorm2Weight], params[kNorm2Bias], shape_.eps);
    const at::Tensor activated = ops::Gelu(ops::Linear(params, Fc1(), norm2), GeluKind::kTanh);
    return {ops::LinearAdd(params, Fc2()[0], activated, y)};
  }

  std::unique_ptr<Tape> Record(const UnitContext& context, const Params& params, const std::vector<bool>& trainable,
                               const Values& in, const std::vector<bool>& needs_grad, Save save) const override {
    if (save != Save::kGraph) return Unit::Record(context, params, trainable, in, needs_grad, save);
    const c10::NoGradGuard no_grad;
    BlockState state;
    at::Tensor out = Run(params, in[0], &state);
    return std::make_unique<VisionTape>(shape_, params, needs_grad[0], std::move(state), std::move(out));
  }

  // Kept is BlockState: both norms, qkv, what attention gave and its log-sum-exp, y, the wide layer and its activation.
  Footprint Needs(const Counts& counts, int64_t element_bytes) const override {
    const int64_t c = shape_.hidden, f = shape_.feed_forward, patches = counts.images * shape_.patches;
    const int64_t rows = element_bytes * patches;
    return {.kept = rows * (7 * c + 2 * f) + 4 * patches * (shape_.heads + 4),
            .forward = rows * c,
            .backward = rows * std::max(2 * f, f + 7 * c)};
  }

 private:
  at::Tensor Run(const Params& params, const at::Tensor& input, BlockState* state) const {
    const at::Tensor x = input.contiguous();
    ops::Normalized norm1 = ops::LayerNormForward(x, params[kNorm1Weight], params[kNorm1Bias], shape_.eps);
    const AttentionInput qkv = shape_.Split(ops::Linear(params, Qkv(), norm1.y_ND));
    AttentionTape attention = AttentionTape::Record(qkv, shape_.Starts(x.size(0)), AttentionRule::kBidirectional);
    const at::Tensor y = ops::LinearAdd(params, Out()[0], attention.out_NHE().flatten(1), x);
    ops::Normalized norm2 = ops::LayerNormForward(y, params[kNorm2Weight], params[kNorm2Bias], shape_.eps);
    const at::Tensor wide = ops::Linear(params, Fc1(), norm2.y_ND);
    const at::Tensor activated = ops::Gelu(wide, GeluKind::kTanh);
    at::Tensor out = ops::LinearAdd(params, Fc2()[0], activated, y);
    if (state != nullptr) {
      state->x = x, state->y = y, state->wide = wide, state->activated = activated;
      state->norm1 = std::move(norm1), state->norm2 = std::move(norm2), state->attention = std::move(attention);
    }
    return out;
  }

  std::string prefix_, input_, output_;
  BlockShape shape_;
};

class VisionPostUnit : public Unit {
 public:
  VisionPostUnit(const VisionConfig& config, std::string prefix, std::string input, std::string output)
      : config_(config), prefix_(std::move(prefix)), input_(std::move(input)), output_(std::move(output)) {}
  Declaration Declare() const override {
    const int64_t c = config_.hidden_size;
    return {{Vector(prefix_ + "weight", c, Init::Kind::kOnes), Vector(prefix_ + "bias", c, Init::Kind::kZeros)},
            {input_},
            {{output_, {Axis::kVisionTokens, c}}}};
  }
  Values Forward(const UnitContext&, const Params& params, const Values& in) const override {
    return {ops::LayerNorm(in[0], params[0], params[1], config_.layer_norm_eps)};
  }

 private:
  VisionConfig config_;
  std::string prefix_, input_, output_;
};

enum ProjectorParam { kWeight1, kBias1, kWeight2, kBias2 };

class ProjectorTape : public Tape {
 public:
  ProjectorTape(Params params, bool input_grad, at::Tensor x, at::Tensor wide)
      : params_(std::move(params)), input_grad_(input_grad), x_(std::move(x)), wide_(std::move(wide)) {
    activated_ = ops::Gelu(wide_, GeluKind::kErf);
    outputs_ = {ops::Linear(params_, {{kWeight2, kBias2}}, activated_)};
  }
  const Values& outputs() const override { return outputs_; }
  Values Backward(const Values& grad_outputs, GradSink* sink) override {
    if (!grad_outputs[0].defined()) return Values(1);
    const c10::NoGradGuard no_grad;
    const LinearGroup first = {{kWeight1, kBias1}}, second = {{kWeight2, kBias2}};
    const at::Tensor dy = grad_outputs[0].contiguous();
    ops::AddLinearParameterGradients(params_, second, dy, activated_, sink);
    const at::Tensor d_wide = ops::GeluBackward(ops::LinearInputGradient(params_, second, dy), wide_, GeluKind::kErf);
    ops::AddLinearParameterGradients(params_, first, d_wide, x_, sink);
    return {input_grad_ ? ops::LinearInputGradient(params_, first, d_wide) : at::Tensor()};
  }

 private:
  Params params_;
  bool input_grad_;
  at::Tensor x_, wide_, activated_;
  Values outputs_;
};

class ProjectorUnit : public Unit {
 public:
  ProjectorUnit(const LlavaConfig& config, std::string prefix, std::string input, std::string output)
      : config_(config), prefix_(std::move(prefix)), input_(std::move(input)), output_(std::move(output)) {}
  Declaration Declare() const override {
    const int64_t c = config_.vision.hidden_size, d = config_.text.hidden_size;
    const Init normal{Init::Kind::kNormal, config_.text.initializer_range};
    return {
        {Matrix(prefix_ + "linear_1.weight", d, c, normal), Vector(prefix_ + "linear_1.bias", d, Init::Kind::kZeros),
         Matrix(prefix_ + "linear_2.weight", d, d, normal), Vector(prefix_ + "linear_2.bias", d, Init::Kind::kZeros)},
        {input_},
        {{output_, {Axis::kVisionTokens, d}}}};
  }
  Values Forward(const UnitContext&, const Params& params, const Values& in) const override {
    const at::Tensor wide = ops::Linear(params, {{kWeight1, kBias1}}, in[0]);
    return {ops::Linear(params, {{kWeight2, kBias2}}, ops::Gelu(wide, GeluKind::kErf))};
  }
  std::unique_ptr<Tape> Record(const UnitContext& context, const Params& params, const std::vector<bool>& trainable,
                               const Values& in, const std::vector<bool>& needs_grad, Save save) const override {
    if (save != Save::kGraph) return Unit::Record(context, params, trainable, in, needs_grad, save);
    const c10::NoGradGuard no_grad;
    const at::Tensor x = in[0].contiguous();
    return std::make_unique<ProjectorTape>(params, needs_grad[0], x, ops::Linear(params, {{kWeight1, kBias1}}, x));
  }

  // Kept: the inner layer and its activation.
  Footprint Needs(const Counts& counts, int64_t element_bytes) const override {
    const int64_t wide = element_bytes * counts.vision_tokens * config_.text.hidden_size;
    return {.kept = 2 * wide, .forward = 0, .backward = 2 * wide};
  }

 private:
  LlavaConfig config_;
  std::string prefix_, input_, output_;
};

class MergeTape : public Tape {
 public:
  MergeTape(at::Tensor rows_V, std::vector<bool> needs_grad, at::Tensor out)
      : rows_V_(std::move(rows_V)), needs_grad_(std::move(needs_grad)), outputs_{std::move(out)} {}
  const Values& outputs() const override { return outputs_; }
  Values Backward(const Values& grad_outputs, GradSink*) override {
    const at::Tensor& dy = grad_outputs[0];
    if (!dy.defined()) return Values(2);
    const c10::NoGradGuard no_grad;
    Values result(2);
    if (!rows_V_.defined()) {
      if (needs_grad_[0]) result[0] = dy;
      return result;
    }
    if (needs_grad_[0]) result[0] = dy.index_fill(0, rows_V_, 0);
    if (needs_grad_[1]) result[1] = dy.index_select(0, rows_V_);
    return result;
  }

 private:
  at::Tensor rows_V_;  // undefined: no pictures
  std::vector<bool> needs_grad_;
  Values outputs_;
};

class MergeUnit : public Unit {
 public:
  MergeUnit(const LlavaConfig& config, std::string embeddings, std::string features, std::string output)
      : hidden_(config.text.hidden_size),
        embeddings_(std::move(embeddings)),
        features_(std::move(features)),
        output_(std::move(output)) {}
  Declaration Declare() const override { return {{}, {embeddings_, features_}, {{output_, {Axis::kTokens, hidden_}}}}; }
  Values Forward(const UnitContext& context, const Params&, const Values& in) const override {
    if (!in[1].defined()) return {in[0]};
    return {ops::ReplaceRows(in[0], context.batch->image_row_V, in[1])};
  }
  std::unique_ptr<Tape> Record(const UnitContext& context, const Params& params, const std::vector<bool>& trainable,
                               const Values& in, const std::vector<bool>& needs_grad, Save save) const override {
    if (save == Save::kNothing) return Unit::Record(context, params, trainable, in, needs_grad, save);
    const c10::NoGradGuard no_grad;
    const at::Tensor rows = in[1].defined() ? context.batch->image_row_V : at::Tensor();
    return std::make_unique<MergeTape>(rows, needs_grad, Forward(context, params, in)[0]);
  }

  // Backward makes the gradients of both inputs.
  Footprint Needs(const Counts& counts, int64_t element_bytes) const override {
    return {.backward = element_bytes * hidden_ * (counts.tokens + counts.vision_tokens)};
  }

 private:
  int64_t hidden_;
  std::string embeddings_, features_, output_;
};

}  // namespace

std::unique_ptr<Unit> NewPatchEmbeddingUnit(const VisionConfig& config, std::string prefix, std::string output) {
  return std::make_unique<PatchEmbeddingUnit>(config, std::move(prefix), std::move(output));
}

std::unique_ptr<Unit> NewVisionBlock(const VisionConfig& config, std::string prefix, std::string input,
                                     std::string output) {
  return std::make_unique<VisionBlock>(config, std::move(prefix), std::move(input), std::move(output));
}

std::unique_ptr<Unit> NewVisionPostUnit(const VisionConfig& config, std::string prefix, std::string input,
                                        std::string output) {
  return std::make_unique<VisionPostUnit>(config, std::move(prefix), std::move(input), std::move(output));
}

std::unique_ptr<Unit> NewProjectorUnit(const LlavaConfig& config, std::string prefix, std::string input,
                                       std::string output) {
  return std::make_unique<ProjectorUnit>(config, std::move(prefix), std::move(input), std::move(output));
}

std::unique_ptr<Unit> NewMergeUnit(const LlavaConfig& config, std::string embeddings, std::string features,
                                   std::string output) {
  return std::make_unique<MergeUnit>(config, std::move(embeddings), std::move(features), std::move(output));
}

}  // namespace vlm::model
