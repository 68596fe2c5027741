#include "train/run.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "train/allocation_counter.h"
#include "train/torch_edge.h"

namespace vlm::train {
namespace {

using model::NodeId;
using model::ValueId;

class Runner {
 public:
  Runner(const Schedule& schedule, ParameterStore* store, const RunInputs& inputs, const Clock* clock)
      : schedule_(schedule),
        graph_(store->graph()),
        store_(store),
        inputs_(inputs),
        clock_(clock),
        values_(graph_.values.size()),
        gradients_(graph_.values.size()),
        tapes_(graph_.nodes.size()),
        tickets_(store->buckets().size()) {
    result_.nodes_run.assign(graph_.nodes.size(), false);
  }

  absl::StatusOr<RunResult> Execute() {
    at::NoGradGuard no_grad;
    VLM_CHECK(inputs_.objective != nullptr, "a run needs an objective");
    if (inputs_.batch != nullptr) known_ = inputs_.objective->Known(*inputs_.batch, inputs_.global);
    for (const Op& op : schedule_.ops) VLM_RETURN_IF_ERROR(Do(op));
    if (!scored_) VLM_RETURN_IF_ERROR(Score());
    return std::move(result_);
  }

 private:
  absl::Status Do(const Op& op) {
    switch (op.kind) {
      case Op::Kind::kAcquire:
        tickets_[op.id] = store_->Acquire(op.id);
        return absl::OkStatus();
      case Op::Kind::kWait:
        return store_->queue()->Wait(tickets_[op.id]);
      case Op::Kind::kForward:
        return Present(op.id) ? Timed(&result_.forward, [&] { return Forward(op.id); }) : absl::OkStatus();
      case Op::Kind::kBackward:
        if (!scored_) VLM_RETURN_IF_ERROR(Score());
        return tapes_[op.id] == nullptr ? absl::OkStatus() : Timed(&result_.backward, [&] { return Backward(op.id); });
      case Op::Kind::kReduce:
        store_->ReduceAccumulate(op.id);  // its error comes from the queue: the next wait, or Drain
        return absl::OkStatus();
      case Op::Kind::kRelease:
        store_->Release(op.id);
        return absl::OkStatus();
      case Op::Kind::kFree:
        values_[op.id] = at::Tensor();
        return absl::OkStatus();
    }
    return absl::InternalError("operation of an unknown kind");
  }

  bool Present(NodeId node) const {
    if (inputs_.batch == nullptr) return false;
    return graph_.nodes[node].when == model::Presence::kAlways || inputs_.batch->counts.images > 0;
  }

  template <typename Body>
  absl::Status Timed(absl::Duration* total, const Body& body) {
    const absl::Duration start = clock_->Monotonic(), blocked = store_->queue()->blocked();
    absl::Status status = body();
    *total += clock_->Monotonic() - start - (store_->queue()->blocked() - blocked);
    return status;
  }

  model::UnitContext Context(NodeId node) const {
    model::UnitContext context;
    context.batch = inputs_.batch;
    context.phase = model::Phase::kTrain;
    if (known_.has_value() && schedule_.save[node] != model::Save::kNothing) context.coefficients = &*known_;
    return context;
  }

  absl::Status Forward(NodeId id) {
    const model::Node& node = graph_.nodes[id];
    VLM_ASSIGN_OR_RETURN(const model::Params params, store_->Views(id));
    model::Values in;
    for (ValueId value : node.in) in.push_back(values_[value]);
    result_.nodes_run[id] = true;
    return CatchTorch("forward of node " + node.name, [&] {
      model::Values out;
      if (schedule_.save[id] == model::Save::kNothing) {
        out = node.unit->Forward(Context(id), params, in);
      } else {
        tapes_[id] =
            node.unit->Record(Context(id), params, Trainable(node), in, NeedsGradient(node), schedule_.save[id]);
        out = tapes_[id]->outputs();
      }
      if (out.size() != node.out.size()) {
        return absl::InternalError(absl::StrCat("node returned another number of values than it declared: ", node.name,
                                                ", ", out.size(), " instead of ", node.out.size()));
      }
      for (size_t i = 0; i < out.size(); ++i) values_[node.out[i]] = std::move(out[i]);
      return absl::OkStatus();
    });
  }

  std::vector<bool> Trainable(const model::Node& node) const {
    std::vector<bool> trainable;
    for (model::ParamId param : node.params) {
      trainable.push_back(store_->Optimized(store_->BucketOf(param)));
    }
    return trainable;
  }

  std::vector<bool> NeedsGradient(const model::Node& node) const {
    std::vector<bool> needs;
    for (ValueId value : node.in) needs.push_back(schedule_.needs_grad[value] && values_[value].defined());
    return needs;
  }

  // The loss, and its gradients with respect to the results: the seeds of backward.
  absl::Status Score() {
    scored_ = true;
    if (inputs_.batch == nullptr) return absl::OkStatus();
    model::Values results;
    for (ValueId value : graph_.results) results.push_back(values_[value]);
    if (results.size() < 3 || !results[0].defined()) {
      return absl::InternalError("objectives read three results, logp_K, lse_K and mean_logit_K; the graph gave fewer");
    }
    return CatchTorch("loss of micro-batch " + std::to_string(inputs_.batch->global_index), [&] {
      result_.loss = inputs_.objective->Loss(results, *inputs_.batch, inputs_.global);
      const model::Values seeds = inputs_.objective->Seeds(*inputs_.batch, inputs_.global);
      for (size_t i = 0; i < seeds.size(); ++i) gradients_[graph_.results[i]] = seeds[i];
      return absl::OkStatus();
    });
  }

  absl::Status Backward(NodeId id) {
    const model::Node& node = graph_.nodes[id];
    std::unique_ptr<model::Tape> tape = std::move(tapes_[id]);
    model::Values grad_outputs;
    for (ValueId value : node.out) grad_outputs.push_back(TakeGradient(value));
    const auto defined = [](const at::Tensor& tensor) { return tensor.defined(); };
    if (std::none_of(grad_outputs.begin(), grad_outputs.end(), defined)) return absl::OkStatus();
    VLM_ASSIGN_OR_RETURN(model::GradSink sink, store_->Gradients(id));
    model::Values grad_inputs;
    VLM_RETURN_IF_ERROR(CatchTorch("backward of node " + node.name, [&] {
      grad_inputs = tape->Backward(grad_outputs, &sink);
      return absl::OkStatus();
    }));
    VLM_CHECK(grad_inputs.size() == node.in.size(), "backward returns one gradient per input: " + node.name);
    for (size_t i = 0; i < node.in.size(); ++i) {
      if (schedule_.needs_grad[node.in[i]] && grad_inputs[i].defined()) AddGradient(node.in[i], grad_inputs[i]);
    }
    return absl::OkStatus();
  }

  // A value's gradient is complete when its producer's backward runs: all consumers come later in the graph.
  at::Tensor TakeGradient(ValueId value) { return std::exchange(gradients_[value], at::Tensor()); }

  // Out of place: a unit may return one tensor for two inputs.
  void AddGradient(ValueId value, const at::Tensor& gradient) {
    at::Tensor& sum = gradients_[value];
    sum = sum.defined() ? at::add(sum, gradient) : gradient;
  }

  const Schedule& schedule_;
  const model::Graph& graph_;
  ParameterStore* const store_;
  const RunInputs& inputs_;
  const Clock* const clock_;
  std::vector<at::Tensor> values_, gradients_;       // by value
  std::vector<std::unique_ptr<model::Tape>> tapes_;  // by node
  std::vector<Ticket> tickets_;                      // by bucket
  std::optional<model::TokenCoefficients> known_;
  bool scored_ = false;
  RunResult result_;
};

}  // namespace

absl::StatusOr<RunResult> Run(const Schedule& schedule, ParameterStore* store, const RunInputs& inputs,
                              const Clock* clock) {
  if (!inputs.measure_activations) return Runner(schedule, store, inputs, clock).Execute();
  const auto counter = std::make_shared<AllocationCounter>();
  absl::StatusOr<RunResult> result;
  {
    c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
    result = Runner(schedule, store, inputs, clock).Execute();
  }
  if (result.ok()) {
    result->activation_bytes = counter->peak();
    store->set_activation_bytes(counter->peak());
  }
  return result;
}

}  // namespace vlm::train
