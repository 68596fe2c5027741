#include "train/buckets.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <tuple>

#include "base/check.h"

namespace vlm::train {
namespace {

using model::Encoding;
using model::Graph;
using model::NodeId;
using model::ParamId;
using model::Presence;

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Parameters that may share a bucket have equal keys.
struct ClassKey {
  Encoding encoding;
  bool trainable, reached, always;
  auto Tuple() const { return std::tuple(encoding, trainable, reached, always); }
  friend bool operator<(const ClassKey& a, const ClassKey& b) { return a.Tuple() < b.Tuple(); }
};

struct Uses {
  std::vector<NodeId> nodes;  // ascending, unique
  bool reached = false;       // by a node that a result needs
  bool always = false;        // by such a node, present without images too
};

std::vector<Uses> UsesOfParameters(const Graph& graph) {
  const std::vector<bool> reaching = ReachingNodes(graph, graph.results);
  std::vector<Uses> uses(graph.params.size());
  for (NodeId node = 0; node < static_cast<NodeId>(graph.nodes.size()); ++node) {
    for (ParamId param : graph.nodes[node].params) {
      Uses& use = uses[param];
      if (use.nodes.empty() || use.nodes.back() != node) use.nodes.push_back(node);
      if (!reaching[node]) continue;
      use.reached = true;
      if (graph.nodes[node].when == Presence::kAlways) use.always = true;
    }
  }
  return uses;
}

struct OpenBucket {
  BucketSpec spec;
  NodeId first_node = model::kNone;
  NodeId last_node = model::kNone;  // the node that appended last
  int appended_nodes = 0;
};

void Append(const Graph& graph, NodeId node, ParamId param, const Uses& uses, OpenBucket* open) {
  if (open->last_node != node) {
    open->last_node = node;
    ++open->appended_nodes;
    if (open->first_node == model::kNone) open->first_node = node;
  }
  BucketSpec& spec = open->spec;
  const int64_t numel = NumElements(graph.params[param].shape);
  const int64_t offset = RoundUp(spec.used, kRangeAlignment);
  spec.ranges.push_back({param, 0, numel, offset});
  spec.used = offset + numel;
  spec.users.insert(spec.users.end(), uses.nodes.begin(), uses.nodes.end());
}

BucketSpec Close(const Graph& graph, OpenBucket open, int world) {
  BucketSpec spec = std::move(open.spec);
  spec.name = graph.nodes[open.first_node].name;
  if (open.appended_nodes > 1) spec.name += "+" + std::to_string(open.appended_nodes - 1);
  if (!spec.trainable) spec.name += " (frozen)";
  std::sort(spec.users.begin(), spec.users.end());
  spec.users.erase(std::unique(spec.users.begin(), spec.users.end()), spec.users.end());
  spec.numel = RoundUp(std::max<int64_t>(spec.used, 1), kBlockElements * world);
  return spec;
}

}  // namespace

int64_t NumElements(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

std::vector<bool> ReachingNodes(const Graph& graph, const std::vector<model::ValueId>& results) {
  std::vector<bool> wanted(graph.values.size(), false), reaching(graph.nodes.size(), false);
  for (model::ValueId value : results) wanted[value] = true;
  for (NodeId node = static_cast<NodeId>(graph.nodes.size()) - 1; node >= 0; --node) {
    const model::Node& n = graph.nodes[node];
    reaching[node] = std::any_of(n.out.begin(), n.out.end(), [&](model::ValueId v) { return wanted[v]; });
    if (!reaching[node]) continue;
    for (model::ValueId value : n.in) wanted[value] = true;
  }
  return reaching;
}

std::vector<BucketSpec> PlanBuckets(const Graph& graph, const std::vector<bool>& trainable, int world) {
  VLM_CHECK(world >= 1, "world must be at least 1");
  VLM_CHECK(trainable.size() == graph.params.size(), "one trainable flag per parameter");
  const std::vector<Uses> uses = UsesOfParameters(graph);
  std::vector<BucketSpec> buckets;
  std::map<ClassKey, OpenBucket> open;
  std::vector<bool> placed(graph.params.size(), false);
  for (NodeId node = 0; node < static_cast<NodeId>(graph.nodes.size()); ++node) {
    std::vector<ClassKey> touched;
    for (ParamId param : graph.nodes[node].params) {
      if (placed[param]) continue;
      placed[param] = true;
      const ClassKey key{graph.params[param].encoding, trainable[param], uses[param].reached, uses[param].always};
      OpenBucket& bucket = open[key];
      bucket.spec.encoding = key.encoding;
      bucket.spec.trainable = key.trainable;
      bucket.spec.reached = key.reached;
      Append(graph, node, param, uses[param], &bucket);
      touched.push_back(key);
    }
    for (const ClassKey& key : touched) {
      auto found = open.find(key);
      if (found == open.end() || found->second.spec.used < kCoalesceElements) continue;
      buckets.push_back(Close(graph, std::move(found->second), world));
      open.erase(found);
    }
  }
  for (auto& [key, bucket] : open) buckets.push_back(Close(graph, std::move(bucket), world));
  return buckets;
}

SlotPlan PlanSlots(const std::vector<BucketSpec>& buckets) {
  std::vector<BucketId> order;
  for (BucketId id = 0; id < static_cast<BucketId>(buckets.size()); ++id) {
    if (buckets[id].optimized()) order.push_back(id);
  }
  // Backward opens a bucket at its last user and closes it after its first.
  std::stable_sort(order.begin(), order.end(),
                   [&](BucketId a, BucketId b) { return buckets[a].users.back() > buckets[b].users.back(); });
  SlotPlan plan{std::vector<int>(buckets.size(), -1), {}};
  std::vector<NodeId> open_until;  // by slot: the node whose backward closes its bucket
  for (BucketId id : order) {
    std::vector<int> free;
    for (int slot = 0; slot < static_cast<int>(open_until.size()); ++slot) {
      if (open_until[slot] > buckets[id].users.back()) free.push_back(slot);
    }
    // The one closed first; the one closed last may still be read by its reduction.
    std::sort(free.begin(), free.end(), [&](int a, int b) { return open_until[a] > open_until[b]; });
    int slot = static_cast<int>(open_until.size());
    if (free.size() >= 2) {
      slot = free.front();
    } else {
      open_until.push_back(0);
      plan.slot_numel.push_back(0);
    }
    open_until[slot] = buckets[id].users.front();
    plan.slot_of_bucket[id] = slot;
    plan.slot_numel[slot] = std::max(plan.slot_numel[slot], buckets[id].numel);
  }
  return plan;
}

SlotPlan OwnSlots(const std::vector<BucketSpec>& buckets) {
  SlotPlan plan{std::vector<int>(buckets.size(), -1), {}};
  for (size_t id = 0; id < buckets.size(); ++id) {
    if (!buckets[id].optimized()) continue;
    plan.slot_of_bucket[id] = static_cast<int>(plan.slot_numel.size());
    plan.slot_numel.push_back(buckets[id].numel);
  }
  return plan;
}

}  // namespace vlm::train
