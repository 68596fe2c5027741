// Which parameters share a flat buffer: the unit of gathering, reducing and optimizing.
//
// One bucket per (node, encoding, trainable or frozen); small ones are coalesced until a bucket holds at least
// 1 MiB of fp32. Parameters that the results do not reach, or that only image micro-batches reach, are never
// coalesced with others, so that a step that does not reach them can skip their optimizer state. Layout is a
// pure function of (graph, trainable set); the number of ranks decides only the padding at the end.
#ifndef VLM_TRAIN_BUCKETS_H_
#define VLM_TRAIN_BUCKETS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "model/graph.h"

namespace vlm::train {

using BucketId = int32_t;

// Every parameter range begins on a multiple of this; vector bodies and tails then never depend on the layout.
inline constexpr int64_t kRangeAlignment = 64;
// Every shard border lies on a multiple of this from the bucket's start: the unit of the global norm's sums.
inline constexpr int64_t kBlockElements = 4096;
// Coalescing stops at 1 MiB of fp32, a size at which collectives reach their bandwidth.
inline constexpr int64_t kCoalesceElements = (1 << 20) / 4;

// Elements [begin, end) of a parameter (row-major) at `offset` elements from the bucket's start.
struct ParamRange {
  model::ParamId param = model::kNone;
  int64_t begin = 0, end = 0, offset = 0;
  friend bool operator==(const ParamRange&, const ParamRange&) = default;
};

struct BucketSpec {
  std::string name;  // its first node's name, "+n" when n more nodes were coalesced; in messages and tags
  std::vector<ParamRange> ranges;
  model::Encoding encoding = model::Encoding::kCompute;
  bool trainable = false;
  bool reached = true;               // false: no path to the results; no gradient ever
  std::vector<model::NodeId> users;  // ascending; more than one: tied or coalesced
  int64_t used = 0;                  // elements up to the end of the last range
  int64_t numel = 0;                 // used, padded to a multiple of kBlockElements * world

  // Has gradients and optimizer state.
  bool optimized() const { return trainable && reached; }
};

// `trainable` has one entry per parameter of the graph. A parameter used by several nodes (tied) lies in one
// bucket, the one of its first node. Requires world >= 1.
std::vector<BucketSpec> PlanBuckets(const model::Graph& graph, const std::vector<bool>& trainable, int world);

// Where gradients of a bucket lie between its first backward and its reduction. Buckets whose backwards follow
// each other rotate over two slots; one that is open across others (a tied parameter) holds its own.
struct SlotPlan {
  std::vector<int> slot_of_bucket;  // -1: frozen or not reached
  std::vector<int64_t> slot_numel;
};
SlotPlan PlanSlots(const std::vector<BucketSpec>& buckets);
// A slot for every bucket: no backward waits for a reduction.
SlotPlan OwnSlots(const std::vector<BucketSpec>& buckets);

// Nodes from which a result can be reached; the others never run.
std::vector<bool> ReachingNodes(const model::Graph& graph, const std::vector<model::ValueId>& results);

// Elements of a logical shape.
int64_t NumElements(const std::vector<int64_t>& shape);

}  // namespace vlm::train

#endif  // VLM_TRAIN_BUCKETS_H_
