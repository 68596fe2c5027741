#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>

#include "model/decoder.h"
#include "model/ops/linear.h"
#include "model/ops/norm.h"
#include "model/ops/rows.h"
#include "model/ops/token_loss.h"

namespace vlm::model {
namespace {

using ops::HeadInput;
using ops::HeadResults;

enum HeadParam { kNormWeight, kHeadWeight };

Values AsValues(const HeadResults& results) { return {results.logp_K, results.lse_K, results.mean_logit_K, {}}; }

struct HeadState {
  at::Tensor rows_KD;    // hidden states at the target positions, before the norm
  ops::Normalized norm;  // norm.y_ND feeds the head
  at::Tensor target_index_K, target_id_K;
  at::Tensor lse_K;
  ops::HeadGradients known;  // made in the forward pass, when the coefficients were known
  bool is_known = false;
  int64_t tokens = 0;
};

class HeadTape : public Tape {
 public:
  HeadTape(Params params, bool input_grad, HeadState state, Values outputs)
      : params_(std::move(params)), input_grad_(input_grad), state_(std::move(state)), outputs_(std::move(outputs)) {}
  const Values& outputs() const override { return outputs_; }

  Values Backward(const Values& grad_outputs, GradSink* sink) override {
    const c10::NoGradGuard no_grad;
    if (!Reached(grad_outputs)) return Values(1);
    const ops::HeadGradients gradients = state_.is_known ? UseKnown(sink) : Recompute(grad_outputs, sink);
    const at::Tensor norm_slot = sink->slots[kNormWeight];
    if (!input_grad_ && !norm_slot.defined()) return Values(1);
    const at::Tensor d_rows = ops::RmsNormBackward(gradients.d_hidden_KD, state_.rows_KD, params_[kNormWeight],
                                                   state_.norm, {{}, norm_slot, {}});
    if (!input_grad_) return Values(1);
    // A position may carry several targets, so rows are added.
    at::Tensor d_hidden = at::zeros({state_.tokens, d_rows.size(1)}, d_rows.options());
    ops::AddEmbeddingGradient(d_rows, state_.target_index_K, d_hidden);
    return {d_hidden};
  }

 private:
  bool Reached(const Values& grad_outputs) const {
    if (state_.is_known) return true;
    return grad_outputs[0].defined() || grad_outputs[1].defined() || grad_outputs[2].defined();
  }

  ops::HeadGradients UseKnown(GradSink* sink) {
    if (at::Tensor slot = sink->slots[kHeadWeight]; slot.defined()) slot.add_(state_.known.d_weight_VD);
    return std::move(state_.known);
  }

  ops::HeadGradients Recompute(const Values& grad_outputs, GradSink* sink) {
    const int64_t targets = state_.rows_KD.size(0), vocabulary = params_[kHeadWeight].size(0);
    const TokenCoefficients coefficients = ops::CoefficientsFromGradients(
        {grad_outputs[0], grad_outputs[1], grad_outputs[2]}, targets, vocabulary, state_.lse_K.options());
    const at::Tensor slot = sink->slots[kHeadWeight];
    const bool hidden = input_grad_ || sink->slots[kNormWeight].defined();
    return ops::HeadBackward({state_.norm.y_ND, params_[kHeadWeight], state_.target_id_K}, state_.lse_K, coefficients,
                             {hidden, slot.defined(), slot});
  }

  Params params_;
  bool input_grad_;
  HeadState state_;
  Values outputs_;
};

class HeadUnit : public Unit {
 public:
  HeadUnit(const TextConfig& config, std::string norm_name, std::string head_name, std::string input)
      : config_(config), norm_name_(std::move(norm_name)), head_name_(std::move(head_name)), input_(std::move(input)) {}

  Declaration Declare() const override {
    const Init normal{Init::Kind::kNormal, config_.initializer_range};
    const auto per_target = [](const char* name) { return ValueSpec{name, {Axis::kTargets}, ScalarKind::kFp32}; };
    return {{{norm_name_, {config_.hidden_size}, Encoding::kCompute, {Init::Kind::kOnes, 0}, DecayClass::kNormOrBias},
             {head_name_,
              {config_.vocab_size, config_.hidden_size},
              Encoding::kCompute,
              normal,
              config_.tie_word_embeddings ? DecayClass::kEmbedding : DecayClass::kMatrix}},
            {input_},
            {per_target("logp_K"),
             per_target("lse_K"),
             per_target("mean_logit_K"),
             {"next_logits", {Axis::kDocuments, config_.vocab_size}, ScalarKind::kFp32, false}}};
  }

  Values Forward(const UnitContext& context, const Params& params, const Values& in) const override {
    if (context.phase == Phase::kPrefill || context.phase == Phase::kDecode) {
      return {{}, {}, {}, NextLogits(*context.batch, params, in[0])};
    }
    const at::Tensor rows = in[0].index_select(0, context.batch->target_index_K);
    if (c10::GradMode::is_enabled()) {
      return AsValues(ops::HeadDefinition({ops::RmsNorm(rows, params[kNormWeight], config_.rms_norm_eps),
                                           params[kHeadWeight], context.batch->target_id_K}));
    }
    const at::Tensor normalized = ops::RmsNormForward(rows, params[kNormWeight], config_.rms_norm_eps).y_ND;
    return AsValues(ops::HeadForward({normalized, params[kHeadWeight], context.batch->target_id_K}));
  }

  // kInputs is the same as kGraph: the head saves hidden rows only, and recomputes its logits anyway.
  std::unique_ptr<Tape> Record(const UnitContext& context, const Params& params, const std::vector<bool>& trainable,
                               const Values& in, const std::vector<bool>& needs_grad, Save save) const override {
    if (save == Save::kNothing) return Unit::Record(context, params, trainable, in, needs_grad, save);
    const c10::NoGradGuard no_grad;
    const MicroBatch& batch = *context.batch;
    HeadState state;
    state.tokens = in[0].size(0);
    state.target_index_K = batch.target_index_K;
    state.target_id_K = batch.target_id_K;
    state.rows_KD = in[0].index_select(0, batch.target_index_K);
    state.norm = ops::RmsNormForward(state.rows_KD, params[kNormWeight], config_.rms_norm_eps);
    const HeadInput input{state.norm.y_ND, params[kHeadWeight], state.target_id_K};
    HeadResults results;
    if (context.coefficients != nullptr) {
      ops::HeadPass pass = ops::HeadForwardBackward(
          input, *context.coefficients, {needs_grad[0] || trainable[kNormWeight], trainable[kHeadWeight], {}});
      results = pass.results;
      state.known = std::move(pass.gradients);
      state.is_known = true;
    } else {
      results = ops::HeadForward(input);
    }
    state.lse_K = results.lse_K;
    return std::make_unique<HeadTape>(params, needs_grad[0], std::move(state), AsValues(results));
  }

  // Kept is HeadState after a pass with known coefficients: hidden rows, their norm, the gradients of rows and of the
  // whole weight. A chunk's logits and their gradient come and go.
  Footprint Needs(const Counts& counts, int64_t element_bytes) const override {
    const int64_t d = config_.hidden_size, v = config_.vocab_size, k = counts.targets;
    const int64_t chunk = std::min(k, ops::TargetsPerChunk(v));
    return {.kept = element_bytes * 3 * k * d + 4 * v * d + 8 * k,
            .forward = 4 * 2 * chunk * v,
            .backward = element_bytes * d * (k + counts.tokens)};
  }

 private:
  at::Tensor NextLogits(const MicroBatch& batch, const Params& params, const at::Tensor& hidden) const {
    const int64_t documents = static_cast<int64_t>(batch.document_starts.size()) - 1;
    at::Tensor rows = hidden.contiguous();  // where every document has one token
    if (documents != hidden.size(0)) {
      at::Tensor last = at::empty({documents}, at::kLong);
      int64_t* data = last.mutable_data_ptr<int64_t>();
      for (int64_t d = 0; d < documents; ++d) data[d] = batch.document_starts[d + 1] - 1;
      rows = hidden.index_select(0, last.to(hidden.device()));
    }
    const at::Tensor normalized = ops::RmsNormForward(rows, params[kNormWeight], config_.rms_norm_eps).y_ND;
    return ops::Linear(params, {{kHeadWeight}}, normalized).to(at::kFloat);
  }

  TextConfig config_;
  std::string norm_name_, head_name_, input_;
};

}  // namespace

std::unique_ptr<Unit> NewHeadUnit(const TextConfig& config, std::string norm_name, std::string head_name,
                                  std::string input) {
  return std::make_unique<HeadUnit>(config, std::move(norm_name), std::move(head_name), std::move(input));
}

}  // namespace vlm::model
