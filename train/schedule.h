// The order of one micro-step as data: which bucket is made current when, which node runs, what is reduced.
//
// The same for every rank of a micro-step, so its hash can be compared; a rank without a micro-batch, or without
// images, skips the nodes and still joins the communication. Overlap moves no operation: it only decides whether
// communication runs inline or beside the following operations until the next wait.
#ifndef VLM_TRAIN_SCHEDULE_H_
#define VLM_TRAIN_SCHEDULE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "model/graph.h"
#include "train/buckets.h"
#include "train/step_header.h"

namespace vlm::train {

struct Op {
  enum class Kind { kAcquire, kWait, kForward, kBackward, kReduce, kRelease, kFree } kind;
  int32_t id = 0;  // a bucket, a node (forward, backward) or a value (free)
  friend bool operator==(const Op&, const Op&) = default;
};

struct PlanOptions {
  int prefetch = 1;        // buckets made current ahead of the node that needs them
  bool recompute = false;  // nodes save their inputs and run forward again in backward
  // A bucket is released after each use and acquired again for the next one, unless that follows at once: for
  // parameters that are held in shards (zero 3). Else it is held from its first use to its last.
  bool release_after_use = false;
};

struct Schedule {
  std::vector<Op> ops;
  std::vector<model::Save> save;  // by node: what its forward keeps
  std::vector<bool> needs_grad;   // by value: whether backward computes its gradient
  std::vector<bool> reduced;      // by bucket: whether this schedule reduces it
  bool images = false;

  std::string Hash() const;  // 16 hex digits over the canonical form
  std::string ToString(const model::Graph& graph, const std::vector<BucketSpec>& buckets) const;
};

// Pure. `images`: whether any rank has images in this micro-step (StepHeader::HasImages); without them, nodes that are
// present only with images are left out and their values are absent.
//
// A value needs a gradient when a trainable parameter lies above it and a result below. Backward runs
// in reverse node order, which is also the order in which gradients of a value with several consumers are added. A
// bucket is reduced after the backward of its first user, the last one to run (a tied head waits for the embedding).
// Buckets are acquired in the order of their uses, `prefetch` ahead, in forward and in backward.
Schedule Plan(const model::Graph& graph, const std::vector<BucketSpec>& buckets, bool images,
              const PlanOptions& options);

}  // namespace vlm::train

#endif  // VLM_TRAIN_SCHEDULE_H_
