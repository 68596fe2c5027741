#include "train/schedule.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/digest.h"

namespace vlm::train {
namespace {

using model::Graph;
using model::NodeId;
using model::Save;
using model::ValueId;

bool Contains(const std::vector<ValueId>& values, ValueId value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

// Builds one schedule; the members are the facts that several of its operations follow from.
class Planner {
 public:
  Planner(const Graph& graph, const std::vector<BucketSpec>& buckets, bool images, const PlanOptions& options)
      : graph_(graph), buckets_(buckets), options_(options) {
    schedule_.images = images;
  }

  Schedule Build() && {
    FindParametersOfNodes();
    FindNodesThatRun();
    FindGradients();
    FindUses();
    FindHolds();
    FindLastConsumers();
    EmitUses();
    return std::move(schedule_);
  }

 private:
  struct Use {
    NodeId node = model::kNone;
    bool backward = false;
  };
  struct Hold {
    BucketId bucket = -1;
    size_t first = 0, last = 0;  // uses
  };
  static constexpr size_t kNoHold = static_cast<size_t>(-1);

  void FindParametersOfNodes() {
    std::vector<BucketId> bucket_of(graph_.params.size(), -1);
    for (BucketId id = 0; id < static_cast<BucketId>(buckets_.size()); ++id) {
      for (const ParamRange& range : buckets_[id].ranges) bucket_of[range.param] = id;
    }
    buckets_of_.resize(graph_.nodes.size());
    for (size_t node = 0; node < graph_.nodes.size(); ++node) {
      for (model::ParamId param : graph_.nodes[node].params) {
        const BucketId id = bucket_of[param];
        VLM_CHECK(id >= 0, "every parameter lies in a bucket");
        std::vector<BucketId>& mine = buckets_of_[node];
        if (std::find(mine.begin(), mine.end(), id) == mine.end()) mine.push_back(id);
      }
    }
  }

  void FindNodesThatRun() {
    std::vector<bool> needed(graph_.values.size(), false);
    for (ValueId value : graph_.results) needed[value] = true;
    runs_.assign(graph_.nodes.size(), false);
    for (NodeId node = Nodes() - 1; node >= 0; --node) {
      const model::Node& n = graph_.nodes[node];
      if (n.when == model::Presence::kIfImages && !schedule_.images) continue;
      for (ValueId value : n.out) {
        if (needed[value]) runs_[node] = true;
      }
      if (!runs_[node]) continue;
      for (ValueId value : n.in) needed[value] = true;
    }
  }

  void FindGradients() {
    schedule_.needs_grad.assign(graph_.values.size(), false);
    schedule_.save.assign(graph_.nodes.size(), Save::kNothing);
    backward_.assign(graph_.nodes.size(), false);
    for (NodeId node = 0; node < Nodes(); ++node) {
      if (!runs_[node]) continue;
      const model::Node& n = graph_.nodes[node];
      const bool trains = std::any_of(buckets_of_[node].begin(), buckets_of_[node].end(),
                                      [&](BucketId id) { return buckets_[id].optimized(); });
      const bool passes = std::any_of(n.in.begin(), n.in.end(), [&](ValueId v) { return schedule_.needs_grad[v]; });
      backward_[node] = trains || passes;
      if (!backward_[node]) continue;
      schedule_.save[node] = options_.recompute ? Save::kInputs : Save::kGraph;
      for (ValueId value : n.out) {
        if (graph_.values[value].differentiable) schedule_.needs_grad[value] = true;
      }
    }
  }

  // The order of execution: forward, then backward in reverse.
  void FindUses() {
    for (NodeId node = 0; node < Nodes(); ++node) {
      if (runs_[node]) uses_.push_back({node, false});
    }
    for (NodeId node = Nodes() - 1; node >= 0; --node) {
      if (backward_[node]) uses_.push_back({node, true});
    }
  }

  // From which use to which each bucket is held, ascending by first use; and after which it is reduced.
  void FindHolds() {
    std::vector<size_t> open(buckets_.size(), kNoHold);
    std::vector<bool> trained(buckets_.size(), false);
    reduced_after_.assign(buckets_.size(), 0);
    for (size_t use = 0; use < uses_.size(); ++use) {
      for (BucketId id : buckets_of_[uses_[use].node]) {
        const bool goes_on = open[id] != kNoHold && (!options_.release_after_use || holds_[open[id]].last + 1 == use);
        if (!goes_on) {
          open[id] = holds_.size();
          holds_.push_back({id, use, use});
        }
        holds_[open[id]].last = use;
        if (uses_[use].backward) trained[id] = true;
        reduced_after_[id] = use;
      }
    }
    schedule_.reduced.assign(buckets_.size(), false);
    for (BucketId id = 0; id < static_cast<BucketId>(buckets_.size()); ++id) {
      schedule_.reduced[id] = trained[id] && buckets_[id].optimized();
    }
  }

  // A value is freed after its last consumer's forward; absent ones have none.
  void FindLastConsumers() {
    last_consumer_.assign(graph_.values.size(), model::kNone);
    std::vector<bool> present(graph_.values.size(), false);
    for (NodeId node = 0; node < Nodes(); ++node) {
      if (!runs_[node]) continue;
      for (ValueId value : graph_.nodes[node].in) {
        if (present[value]) last_consumer_[value] = node;
      }
      for (ValueId value : graph_.nodes[node].out) {
        present[value] = true;
        last_consumer_[value] = node;
      }
    }
  }

  void EmitUses() {
    size_t acquired = 0, waited = 0;
    for (size_t use = 0; use < uses_.size(); ++use) {
      while (waited < holds_.size() && holds_[waited].first == use) {
        const size_t ahead = std::min(holds_.size(), waited + 1 + static_cast<size_t>(options_.prefetch));
        while (acquired < ahead) Emit(Op::Kind::kAcquire, holds_[acquired++].bucket);
        Emit(Op::Kind::kWait, holds_[waited++].bucket);
      }
      Emit(uses_[use].backward ? Op::Kind::kBackward : Op::Kind::kForward, uses_[use].node);
      for (const Hold& hold : holds_) {
        if (hold.last != use) continue;
        if (schedule_.reduced[hold.bucket] && reduced_after_[hold.bucket] == use) {
          Emit(Op::Kind::kReduce, hold.bucket);
        }
        Emit(Op::Kind::kRelease, hold.bucket);
      }
      if (!uses_[use].backward) EmitFrees(uses_[use].node);
    }
  }

  void EmitFrees(NodeId node) {
    for (ValueId value = 0; value < static_cast<ValueId>(graph_.values.size()); ++value) {
      if (last_consumer_[value] == node && !Contains(graph_.results, value)) Emit(Op::Kind::kFree, value);
    }
  }

  void Emit(Op::Kind kind, int32_t id) { schedule_.ops.push_back({kind, id}); }
  NodeId Nodes() const { return static_cast<NodeId>(graph_.nodes.size()); }

  const Graph& graph_;
  const std::vector<BucketSpec>& buckets_;
  const PlanOptions& options_;
  Schedule schedule_;
  std::vector<std::vector<BucketId>> buckets_of_;  // by node
  std::vector<bool> runs_, backward_;              // by node
  std::vector<Use> uses_;
  std::vector<Hold> holds_;
  std::vector<size_t> reduced_after_;  // by bucket: its last use
  std::vector<NodeId> last_consumer_;  // by value
};

const char* SaveName(Save save) {
  switch (save) {
    case Save::kNothing:
      return "nothing";
    case Save::kGraph:
      return "graph";
    case Save::kInputs:
      return "inputs";
  }
  return "";
}

}  // namespace

Schedule Plan(const Graph& graph, const std::vector<BucketSpec>& buckets, bool images, const PlanOptions& options) {
  VLM_CHECK(options.prefetch >= 0, "prefetch must not be negative");
  return Planner(graph, buckets, images, options).Build();
}

std::string Schedule::Hash() const {
  std::string text = absl::StrCat("schedule 2 ", images, "\n");
  for (const Op& op : ops) absl::StrAppend(&text, static_cast<int>(op.kind), " ", op.id, "\n");
  for (Save mode : save) absl::StrAppend(&text, "s", static_cast<int>(mode));
  for (bool needs : needs_grad) absl::StrAppend(&text, "g", needs);
  return Sha256Of(std::string_view(text)).Hex().substr(0, 16);
}

std::string Schedule::ToString(const Graph& graph, const std::vector<BucketSpec>& buckets) const {
  std::string text;
  for (const Op& op : ops) {
    switch (op.kind) {
      case Op::Kind::kAcquire:
        absl::StrAppend(&text, "acquire  ", buckets[op.id].name, "\n");
        break;
      case Op::Kind::kWait:
        absl::StrAppend(&text, "wait     ", buckets[op.id].name, "\n");
        break;
      case Op::Kind::kForward:
        absl::StrAppend(&text, "forward  ", graph.nodes[op.id].name, ", saves ", SaveName(save[op.id]), "\n");
        break;
      case Op::Kind::kBackward:
        absl::StrAppend(&text, "backward ", graph.nodes[op.id].name, "\n");
        break;
      case Op::Kind::kReduce:
        absl::StrAppend(&text, "reduce   ", buckets[op.id].name, "\n");
        break;
      case Op::Kind::kRelease:
        absl::StrAppend(&text, "release  ", buckets[op.id].name, "\n");
        break;
      case Op::Kind::kFree:
        absl::StrAppend(&text, "free     ", graph.values[op.id].name, "\n");
        break;
    }
  }
  return text;
}

}  // namespace vlm::train
