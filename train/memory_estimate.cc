#include "train/memory_estimate.h"

#include <algorithm>
#include <map>
#include <utility>

#include "train/checkpoint_plan.h"
#include "train/gather_buffers.h"

namespace vlm::train {
namespace {

using model::NodeId;
using model::ValueId;

int64_t SizeOf(const model::Dim& dim, const model::Counts& counts) {
  if (const auto* const number = std::get_if<int64_t>(&dim)) return *number;
  switch (std::get<model::Axis>(dim)) {
    case model::Axis::kTokens:
      return counts.tokens;
    case model::Axis::kTargets:
      return counts.targets;
    case model::Axis::kDocuments:
      return counts.documents;
    case model::Axis::kImages:
      return counts.images;
    case model::Axis::kVisionTokens:
      return counts.vision_tokens;
  }
  return 0;
}

int64_t BytesOf(const model::ValueSpec& spec, const model::Counts& counts, int64_t element_bytes) {
  int64_t bytes = spec.type == model::ScalarKind::kCompute ? element_bytes
                  : spec.type == model::ScalarKind::kFp32  ? int64_t{sizeof(float)}
                                                           : int64_t{sizeof(int64_t)};
  for (const model::Dim& dim : spec.shape) bytes *= SizeOf(dim, counts);
  return bytes;
}

// Goes through a schedule as Run does (train/run.cc), counting instead of computing.
class Walk {
 public:
  Walk(const model::Graph& graph, const Schedule& schedule, const model::Counts& counts, int64_t element_bytes)
      : graph_(graph),
        schedule_(schedule),
        counts_(counts),
        element_bytes_(element_bytes),
        holders_(graph.values.size(), 0),
        has_gradient_(graph.values.size(), false) {
    for (const model::ValueSpec& spec : graph.values) value_bytes_.push_back(BytesOf(spec, counts, element_bytes));
  }

  int64_t Peak() && {
    for (const Op& op : schedule_.ops) {
      if (op.kind == Op::Kind::kForward) Forward(op.id);
      if (op.kind == Op::Kind::kFree) Drop(op.id);
      if (op.kind == Op::Kind::kBackward) Backward(op.id);
    }
    return peak_;
  }

 private:
  model::Footprint NeedsOf(NodeId node) const { return graph_.nodes[node].unit->Needs(counts_, element_bytes_); }

  void Forward(NodeId id) {
    const model::Node& node = graph_.nodes[id];
    const model::Footprint needs = NeedsOf(id);
    for (ValueId value : node.out) Hold(value);
    Note(needs.kept + needs.forward);
    if (schedule_.save[id] == model::Save::kNothing) return;
    if (schedule_.save[id] == model::Save::kGraph) live_ += needs.kept;
    for (ValueId value : node.in) {
      if (holders_[value] > 0) Hold(value);
    }
    for (ValueId value : node.out) Hold(value);
  }

  void Backward(NodeId id) {
    const model::Node& node = graph_.nodes[id];
    const model::Footprint needs = NeedsOf(id);
    if (schedule_.save[id] == model::Save::kInputs) {
      int64_t again = needs.kept;
      for (ValueId value : node.out) again += value_bytes_[value];
      Note(again + std::max(needs.forward, needs.backward));
    } else {
      Note(needs.backward);
      live_ -= needs.kept;
    }
    for (ValueId value : node.in) Drop(value);
    for (ValueId value : node.out) {
      Drop(value);
      if (has_gradient_[value]) live_ -= value_bytes_[value];
      has_gradient_[value] = false;
    }
    for (ValueId value : node.in) {
      if (!schedule_.needs_grad[value]) continue;
      if (has_gradient_[value]) Note(2 * value_bytes_[value]);  // the new part, and the sum beside what was there
      if (!has_gradient_[value]) live_ += value_bytes_[value];
      has_gradient_[value] = true;
    }
    Note(0);
  }

  void Hold(ValueId value) {
    if (holders_[value]++ == 0) live_ += value_bytes_[value];
  }
  // A value that nothing made (no pictures) is held by nobody.
  void Drop(ValueId value) {
    if (holders_[value] > 0 && --holders_[value] == 0) live_ -= value_bytes_[value];
  }
  void Note(int64_t beside) { peak_ = std::max(peak_, live_ + beside); }

  const model::Graph& graph_;
  const Schedule& schedule_;
  const model::Counts& counts_;
  const int64_t element_bytes_;
  std::vector<int64_t> value_bytes_;
  std::vector<int> holders_;  // the table of values and the tapes
  std::vector<bool> has_gradient_;
  int64_t live_ = 0, peak_ = 0;
};

// Bytes of the buffers that the schedule's gathers need, as the store takes and returns them.
int64_t GatheredBytes(const std::vector<BucketSpec>& buckets, const Schedule& schedule, at::ScalarType compute) {
  GatherBuffers buffers(compute, at::kMeta);
  std::map<BucketId, std::pair<int, at::Tensor>> held;  // acquisitions, memory
  for (const Op& op : schedule.ops) {
    if (op.kind == Op::Kind::kAcquire && held[op.id].first++ == 0) {
      held[op.id].second = buffers.Take(buckets[op.id].numel);
    }
    if (op.kind == Op::Kind::kRelease && --held[op.id].first == 0) buffers.Return(std::move(held[op.id].second));
  }
  return buffers.bytes();
}

int64_t SnapshotBytes(const StateLayout& layout) {
  std::vector<int64_t> of_rank(static_cast<size_t>(layout.world), 0);
  for (const PlannedFile& file : PlanState(layout, {}).files) of_rank[static_cast<size_t>(file.rank)] += file.bytes;
  return *std::max_element(of_rank.begin(), of_rank.end());
}

}  // namespace

int64_t PeakBytes(const ResidentBytes& bytes) {
  return bytes.parameters + bytes.gathered + bytes.gradients + bytes.master + bytes.moments + bytes.snapshot +
         std::max(bytes.activations, bytes.scratch);
}

int64_t PeakActivations(const model::Graph& graph, const Schedule& schedule, const model::Counts& counts,
                        int64_t element_bytes) {
  return Walk(graph, schedule, counts, element_bytes).Peak();
}

ResidentBytes EstimateMemory(const model::Graph& graph, const std::vector<BucketSpec>& buckets,
                             const Schedule& schedule, const EstimatedRank& rank, const model::Counts& counts) {
  const int64_t element_bytes = static_cast<int64_t>(c10::elementSize(rank.store.compute));
  const bool shards_state = ShardsState(rank.store.zero);
  const bool sharded = ShardsParameters(rank.store.zero, rank.world);
  ResidentBytes bytes;
  for (const BucketSpec& bucket : buckets) {
    bytes.parameters += element_bytes * bucket.numel / (sharded ? rank.world : 1);
    if (!bucket.optimized()) continue;
    const int64_t owned = bucket.numel / (shards_state ? rank.world : 1);
    bytes.gradients += owned * int64_t{sizeof(float)};
    bytes.moments += 2 * owned * int64_t{sizeof(float)};
    if (HasSeparateMaster(rank.store.compute)) bytes.master += owned * int64_t{sizeof(float)};
    if (owned < bucket.numel) bytes.scratch = std::max(bytes.scratch, bucket.numel * int64_t{sizeof(float)});
  }
  const SlotPlan slots = SlotsOf(rank.store.zero, buckets);
  for (int64_t numel : slots.slot_numel) bytes.gradients += element_bytes * numel;
  if (sharded) bytes.gathered = GatheredBytes(buckets, schedule, rank.store.compute);
  bytes.snapshot = SnapshotBytes({graph, buckets, rank.store.compute, rank.world});
  bytes.activations = PeakActivations(graph, schedule, counts, element_bytes);
  return bytes;
}

}  // namespace vlm::train
