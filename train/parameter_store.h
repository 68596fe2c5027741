// Owns parameters, gradients and optimizer state of one set of weights, in flat buckets.
//
// What a rank holds, of W (Rajbhandari et al. 2020, ZeRO):
//   zero 0  everything whole. The accumulated gradients are all-gathered and every rank updates everything.
//   zero 1  masters and moments in shards; a bucket the optimizer wrote is stale elsewhere and gathered by the next
//           Acquire. Gradients of a micro-batch stay whole, each bucket in a slot of its own, so backward never waits
//           for a reduction.
//   zero 2  as 1, and gradients of a micro-batch only until they are reduced: buckets rotate over two slots.
//   zero 3  as 2, and parameters in shards, frozen ones too: Acquire gathers a bucket into lent memory, the last
//           Release gives the memory to the next.
// In every level the owner of a shard adds contributions to its fp32 accumulator in the same order, so bits are equal.
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
#include "train/gather_buffers.h"
#include "train/ledger.h"
#include "train/zero_level.h"

namespace vlm::train {

struct StoreOptions {
  ZeroLevel zero = ZeroLevel::kZero2;
  at::ScalarType compute = at::kFloat;  // kFloat or kBFloat16
  at::Device device = at::kCPU;
};

// With fp32 compute the master is a view of the parameters.
inline bool HasSeparateMaster(at::ScalarType compute) { return compute != at::kFloat; }

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

  // Makes the bucket's parameters current on this rank: gathers where stale or, in zero 3, not held, else a complete
  // ticket. Collective where it gathers. Acquisitions are counted; each needs one Release, and after the last one
  // values of zero 3 are gone: views of them may be kept, but not read until the bucket is acquired again.
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

  // This rank's shard of the accumulated gradient, in every zero level; drain the queue before reading.
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
  // Loading where each rank fills what it owns, so that nothing is read twice: from zero 1 on its shard of the bucket,
  // else all of it. Elements [begin, end) of the parameter, none of them perhaps, and their memory: 1-d, compute type.
  struct OwnedPart {
    int64_t begin = 0, end = 0;
    at::Tensor memory;
  };
  // FAILED_PRECONDITION while acquired.
  absl::StatusOr<OwnedPart> PartToLoad(model::ParamId param);
  // By every rank, also where its part is empty: sets the part and this rank's masters, each in its own precision, from
  // `values`, 1-d, which may be the part's memory, filled; bumps the version, marks other shards stale, so that the
  // next Acquire gathers them.
  void PartLoaded(model::ParamId param, const OwnedPart& part, const at::Tensor& values);
  // A copy in the compute type, logical shape. FAILED_PRECONDITION when stale or not held: Acquire its bucket first.
  absl::StatusOr<at::Tensor> ReadParameter(model::ParamId param) const;
  // One fp32 buffer of a bucket, whole, on every rank, from whoever owns the parts; to be read before the next step.
  // Collective.
  enum class StateKind { kMaster, kFirstMoment, kSecondMoment };
  absl::StatusOr<at::Tensor> GatherState(BucketId bucket, StateKind kind);
  // This rank's shard of a state buffer, for loading.
  at::Tensor StateShard(BucketId bucket, StateKind kind) const;
  bool has_separate_master() const { return HasSeparateMaster(options_.compute); }
  // Whether a bucket is whole only while acquired: zero 3 on several ranks.
  bool shards_parameters() const { return ShardsParameters(options_.zero, world()); }

  const model::Graph& graph() const { return *graph_; }
  const std::vector<BucketSpec>& buckets() const { return buckets_; }
  const StoreOptions& options() const { return options_; }
  bool Optimized(BucketId bucket) const { return buckets_[bucket].optimized(); }
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
    at::Tensor parameters;                           // numel, compute type; zero 3: without memory unless acquired
    at::Tensor shard;                                // [begin, end) of the parameters, where they are sharded
    at::Tensor lent;                                 // the memory of `parameters` meanwhile
    at::Tensor accumulator;                          // fp32: zero 0 numel, else numel / world
    at::Tensor master, first_moment, second_moment;  // of [begin, end)
    int64_t begin = 0, end = 0;                      // what this rank owns
    int64_t optimizer_steps = 0;
    int acquisitions = 0;
    bool stale = false;  // written since it was last gathered
    bool slot_open = false;
    Ticket gathered;
  };
  ParameterStore(const model::Graph* graph, std::vector<BucketSpec> buckets, const StoreOptions& options,
                 Collective* collective, CommunicationQueue* queue);
  absl::StatusOr<at::Tensor> AllocateShared(int64_t numel, at::ScalarType type, const std::string& tag);
  absl::Status AllocateBucket(BucketId id);
  absl::Status AllocateParameters(BucketId id);
  absl::Status AllocateSlots();
  at::Tensor OwnedParameters(BucketId id) const;  // [begin, end), compute type
  void SetPart(model::ParamId param, const OwnedPart& part, const at::Tensor& values);
  absl::StatusOr<at::Tensor> Slot(BucketId bucket);
  at::Tensor MyShard(const at::Tensor& full) const;
  bool shards_state() const { return ShardsState(options_.zero); }
  // Submits a collective call; what it receives is added to `bytes`.
  Ticket SubmitCounted(std::atomic<int64_t>* bytes, std::function<absl::Status()> call);

  const model::Graph* const graph_;
  const std::vector<BucketSpec> buckets_;
  const StoreOptions options_;
  Collective* const collective_;
  CommunicationQueue* const queue_;
  std::vector<Location> location_;  // by parameter
  std::vector<BucketState> state_;  // by bucket
  GatherBuffers gather_buffers_;
  SlotPlan slot_plan_;
  std::vector<at::Tensor> slots_;     // by slot
  std::vector<Ticket> slot_reduced_;  // by slot: the reduction that reads it
  ResidentBytes resident_;
  // Added to on the queue's thread; CommunicatedBytes of the ledger.
  std::atomic<int64_t> reduced_{0}, gathered_parameters_{0}, gathered_gradients_{0}, gathered_state_{0};
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_PARAMETER_STORE_H_
