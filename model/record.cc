// The default Unit::Record: autograd inside one unit, and recomputation for every unit.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <utility>

#include "base/check.h"
#include "model/graph.h"

namespace vlm::model {
namespace {

Values Detached(const Values& values) {
  Values result;
  for (const at::Tensor& value : values) result.push_back(value.defined() ? value.detach() : value);
  return result;
}

class ForwardOnlyTape : public Tape {
 public:
  explicit ForwardOnlyTape(Values outputs) : outputs_(std::move(outputs)) {}
  const Values& outputs() const override { return outputs_; }
  Values Backward(const Values&, GradSink*) override {
    VLM_CHECK(false, "Backward of a node that was recorded with Save::kNothing");
    return {};
  }

 private:
  Values outputs_;
};

// Keeps the inputs only; Backward records the node again and goes through that tape.
class RecomputeTape : public Tape {
 public:
  RecomputeTape(const Unit* unit, const UnitContext& context, Params params, std::vector<bool> trainable, Values in,
                std::vector<bool> needs_grad, Values outputs)
      : unit_(unit),
        context_(context),
        params_(std::move(params)),
        trainable_(std::move(trainable)),
        in_(std::move(in)),
        needs_grad_(std::move(needs_grad)),
        outputs_(std::move(outputs)) {
    context_.coefficients = nullptr;  // lives only until Record returns
  }
  const Values& outputs() const override { return outputs_; }
  Values Backward(const Values& grad_outputs, GradSink* sink) override {
    return unit_->Record(context_, params_, trainable_, in_, needs_grad_, Save::kGraph)->Backward(grad_outputs, sink);
  }

 private:
  const Unit* unit_;
  UnitContext context_;
  Params params_;
  std::vector<bool> trainable_;
  Values in_;
  std::vector<bool> needs_grad_;
  Values outputs_;
};

class AutogradTape : public Tape {
 public:
  AutogradTape(Values leaves, std::vector<size_t> param_of_leaf, std::vector<size_t> input_of_leaf, size_t inputs,
               Values recorded)
      : leaves_(std::move(leaves)),
        param_of_leaf_(std::move(param_of_leaf)),
        input_of_leaf_(std::move(input_of_leaf)),
        inputs_(inputs),
        recorded_(std::move(recorded)),
        outputs_(Detached(recorded_)) {}
  const Values& outputs() const override { return outputs_; }

  Values Backward(const Values& grad_outputs, GradSink* sink) override {
    Values input_grads(inputs_);
    Values reached, grads;
    for (size_t i = 0; i < recorded_.size(); ++i) {
      if (!grad_outputs[i].defined() || !recorded_[i].defined() || !recorded_[i].requires_grad()) continue;
      reached.push_back(recorded_[i]);
      grads.push_back(grad_outputs[i]);
    }
    if (reached.empty() || leaves_.empty()) return input_grads;
    const Values leaf_grads = torch::autograd::grad(reached, leaves_, grads, /*retain_graph=*/false,
                                                    /*create_graph=*/false, /*allow_unused=*/true);
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < leaves_.size(); ++i) {
      if (!leaf_grads[i].defined()) continue;
      if (i < param_of_leaf_.size()) {
        sink->slots[param_of_leaf_[i]].add_(leaf_grads[i]);
      } else {
        input_grads[input_of_leaf_[i - param_of_leaf_.size()]] = leaf_grads[i];
      }
    }
    return input_grads;
  }

 private:
  Values leaves_;  // parameters first, then inputs
  std::vector<size_t> param_of_leaf_, input_of_leaf_;
  size_t inputs_;
  Values recorded_, outputs_;
};

}  // namespace

std::unique_ptr<Tape> Unit::Record(const UnitContext& context, const Params& params, const std::vector<bool>& trainable,
                                   const Values& in, const std::vector<bool>& needs_grad, Save save) const {
  if (save != Save::kGraph) {
    const c10::NoGradGuard no_grad;
    Values outputs = Forward(context, params, in);
    if (save == Save::kNothing) return std::make_unique<ForwardOnlyTape>(std::move(outputs));
    return std::make_unique<RecomputeTape>(this, context, params, trainable, in, needs_grad, std::move(outputs));
  }
  const c10::AutoGradMode recording(true);
  Values leaves;
  std::vector<size_t> param_of_leaf, input_of_leaf;
  Params leaf_params = params;
  for (size_t i = 0; i < params.size(); ++i) {
    leaf_params[i] = params[i].detach();
    if (!trainable[i]) continue;
    leaves.push_back(leaf_params[i].requires_grad_(true));
    param_of_leaf.push_back(i);
  }
  Values leaf_in = Detached(in);
  for (size_t i = 0; i < in.size(); ++i) {
    if (!in[i].defined() || !needs_grad[i]) continue;
    leaves.push_back(leaf_in[i].requires_grad_(true));
    input_of_leaf.push_back(i);
  }
  Values outputs = Forward(context, leaf_params, leaf_in);
  return std::make_unique<AutogradTape>(std::move(leaves), std::move(param_of_leaf), std::move(input_of_leaf),
                                        in.size(), std::move(outputs));
}

}  // namespace vlm::model
