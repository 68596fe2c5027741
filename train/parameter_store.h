// Owns parameters, gradients and optimizer state of one set of weights, in flat buckets.
//
// Zero 2: parameters resident on every rank, gradients reduce-scattered into fp32 accumulator shards, masters
// and moments sharded; a bucket the optimizer wrote is stale elsewhere and gathered by the next Acquire.
// Zero 0: everything replicated; the accumulator shards are all-gathered and every rank updates everything. The
// arithmetic is the same, so the bits are.
#ifndef VLM_TRAIN_PARAMETER_STORE_H_
#define VLM_TRAIN_PARAMETER_STORE_H_

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/graph.h"
#include "train/buckets.h"
#include "train/collective.h"
#include "train/communication_queue.h"
#include "train/ledger.h"

namespace vlm::train {

enum class ZeroLevel { kZero0 = 0, kZero2 = 2 };

struct StoreOptions {
  ZeroLevel zero = ZeroLevel::kZero2;
  at::ScalarType compute = at::kFloat;  // kFloat or kBFloat16
  at::Device device = at::kCPU;
};

// What the optimizer reads and writes on this rank: elements [begin, end) of a bucket, 1-d fp32 tensors.
struct OptimizerShard {
  int64_t begin = 0, end = 0;
  at::Tensor master, first_moment, second_moment, gradient;
};

// One thread (the step's), except that submitted calls run on the queue's. Collective methods must be called by
// every rank in the same order. graph, collective and queue outlive the store; graph is not changed meanwhile.
class ParameterStore {
 public:
  // Collective (allocates). Parameters, masters and moments start as zeros. INVALID_ARGUMENT: another compute type;
  // errors of Collective::Allocate.
  static absl::StatusOr<std::unique_ptr<ParameterStore>> Create(const model::Graph* graph,
                                                                std::vector<BucketSpec> buckets,
                                                                const StoreOptions& options, Collective* collective,
                                                                CommunicationQueue* queue);

  // Makes the bucket's parameters current on this rank: gathers only where stale, else a complete ticket.
  // Collective where stale. Acquisitions are counted; each needs one Release.
  Ticket Acquire(BucketId bucket);
  void Release(BucketId bucket);
  // Fresh leaf views of a node's parameters, in Node::params order, logical shapes, requires_grad false. They share
  // the bucket's version counter, so autograd notices a later write. FAILED_PRECONDITION naming the bucket unless
  // it is acquired and current.
  absl::StatusOr<model::Params> Views(model::NodeId node) const;

  // Slots for a node's trainable parameters (undefined for frozen ones), compute type, logical shape. A bucket's slot
  // is zeroed at its first use after a reduction; waits for the reduction that last used the slot's memory.
  absl::StatusOr<model::GradSink> Gradients(model::NodeId node);
  // accumulator shard += this micro-step's contributions in rank order. Collective. This rank contributes when
  // Gradients() has opened the bucket's slot since the last reduction.
  Ticket ReduceAccumulate(BucketId bucket);

  // This rank's shard of the accumulated gradient, in both zero levels; drain the queue before reading.
  at::Tensor AccumulatedShard(BucketId bucket) const;
  // Makes the accumulated gradients of `reached` buckets ready for Shard(): zero 0 gathers them (collective). Waits for
  // everything submitted.
  absl::Status FinishGradients(const std::vector<bool>& reached);
  OptimizerShard Shard(BucketId bucket) const;
  // After the optimizer wrote the master: refreshes the parameters, bumps the version, marks other shards stale.
  // FAILED_PRECONDITION while the bucket is acquired.
  absl::Status Updated(BucketId bucket);
  void ClearGradients();
  int64_t optimizer_steps(BucketId bucket) const { return state_[bucket].optimizer_steps; }
  void set_optimizer_steps(BucketId bucket, int64_t steps) { state_[bucket].optimizer_steps = steps; }

  // Loading and initialisation: every rank writes the same values. `value` fp32 or the compute type, any shape with
  // the right number of elements; parameters and, where kept, this rank's masters are set, the version bumped.
  // FAILED_PRECONDITION while acquired, INVALID_ARGUMENT on a wrong size.
  absl::Status WriteParameter(model::ParamId param, const at::Tensor& value);
  // A copy in the compute type, logical shape. FAILED_PRECONDITION when stale: Acquire its bucket first.
  absl::StatusOr<at::Tensor> ReadParameter(model::ParamId param) const;
  // One fp32 buffer of a bucket, whole, on every rank, from whoever owns the parts; to be read before the next step.
  // Collective.
  enum class StateKind { kMaster, kFirstMoment, kSecondMoment };
  absl::StatusOr<at::Tensor> GatherState(BucketId bucket, StateKind kind);
  // This rank's shard of a state buffer, for loading.
  at::Tensor StateShard(BucketId bucket, StateKind kind) const;
  // False with fp32 compute: the master is a view of the parameters.
  bool has_separate_master() const { return options_.compute != at::kFloat; }

  const model::Graph& graph() const { return *graph_; }
  const std::vector<BucketSpec>& buckets() const { return buckets_; }
  const StoreOptions& options() const { return options_; }
  // Trainable and reached: has gradients and optimizer state.
  bool Optimized(BucketId bucket) const { return buckets_[bucket].trainable && buckets_[bucket].reached; }
  BucketId BucketOf(model::ParamId param) const { return location_[param].bucket; }
  int rank() const { return collective_->rank(); }
  int world() const { return collective_->world(); }
  CommunicationQueue* queue() { return queue_; }
  Collective* collective() { return collective_; }
  Ledger ledger() const;
  // Of the last micro-batch, when it was measured.
  void set_activation_bytes(int64_t bytes) { resident_.activations = bytes; }

 private:
  struct Location {
    BucketId bucket = -1;
    int64_t offset = 0;
  };
  struct BucketState {
    at::Tensor parameters;                           // numel, compute type
    at::Tensor accumulator;                          // fp32: zero 0 numel, zero 2 numel / world
    at::Tensor master, first_moment, second_moment;  // of [begin, end)
    int64_t begin = 0, end = 0;                      // what this rank's optimizer owns
    int64_t optimizer_steps = 0;
    int acquisitions = 0;
    bool stale = false;
    bool slot_open = false;
    Ticket gathered;
  };
  ParameterStore(const model::Graph* graph, std::vector<BucketSpec> buckets, const StoreOptions& options,
                 Collective* collective, CommunicationQueue* queue);
  absl::StatusOr<at::Tensor> AllocateShared(int64_t numel, at::ScalarType type, const std::string& tag);
  absl::Status AllocateBucket(BucketId id);
  absl::Status AllocateSlots();
  absl::StatusOr<at::Tensor> Slot(BucketId bucket);
  at::Tensor MyShard(const at::Tensor& full) const;
  // Submits a collective call; what it receives is added to `bytes`.
  Ticket SubmitCounted(std::atomic<int64_t>* bytes, std::function<absl::Status()> call);

  const model::Graph* const graph_;
  const std::vector<BucketSpec> buckets_;
  const StoreOptions options_;
  Collective* const collective_;
  CommunicationQueue* const queue_;
  std::vector<Location> location_;  // by parameter
  std::vector<BucketState> state_;  // by bucket
  SlotPlan slot_plan_;
  std::vector<at::Tensor> slots_;     // by slot
  std::vector<Ticket> slot_reduced_;  // by slot: the reduction that reads it
  ResidentBytes resident_;
  // Added to on the queue's thread; CommunicatedBytes of the ledger.
  std::atomic<int64_t> reduced_{0}, gathered_parameters_{0}, gathered_gradients_{0}, gathered_state_{0};
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_PARAMETER_STORE_H_
