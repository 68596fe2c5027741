#include "train/parameter_store.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace vlm::train {

using model::ParamId;

namespace {

int64_t Bytes(const at::Tensor& tensor) { return static_cast<int64_t>(tensor.nbytes()); }

}  // namespace

ParameterStore::ParameterStore(const model::Graph* graph, std::vector<BucketSpec> buckets, const StoreOptions& options,
                               Collective* collective, CommunicationQueue* queue)
    : graph_(graph),
      buckets_(std::move(buckets)),
      options_(options),
      collective_(collective),
      queue_(queue),
      location_(graph->params.size()),
      state_(buckets_.size()),
      gather_buffers_(options.compute, options.device),
      slot_plan_(SlotsOf(options.zero, buckets_)) {
  for (BucketId id = 0; id < static_cast<BucketId>(buckets_.size()); ++id) {
    for (const ParamRange& range : buckets_[id].ranges) {
      VLM_CHECK(range.begin == 0 && range.end == NumElements(graph->params[range.param].shape),
                "a parameter lies in one bucket as a whole");
      location_[range.param] = {id, range.offset};
    }
  }
}

absl::StatusOr<std::unique_ptr<ParameterStore>> ParameterStore::Create(const model::Graph* graph,
                                                                       std::vector<BucketSpec> buckets,
                                                                       const StoreOptions& options,
                                                                       Collective* collective,
                                                                       CommunicationQueue* queue) {
  if (options.compute != at::kFloat && options.compute != at::kBFloat16) {
    return absl::InvalidArgumentError(
        absl::StrCat("compute type must be fp32 or bf16: ", c10::toString(options.compute)));
  }
  at::NoGradGuard no_grad;
  std::unique_ptr<ParameterStore> store(new ParameterStore(graph, std::move(buckets), options, collective, queue));
  for (BucketId id = 0; id < static_cast<BucketId>(store->buckets_.size()); ++id) {
    VLM_RETURN_IF_ERROR(store->AllocateBucket(id));
  }
  VLM_RETURN_IF_ERROR(store->AllocateSlots());
  return store;
}

absl::StatusOr<at::Tensor> ParameterStore::AllocateShared(int64_t numel, at::ScalarType type, const std::string& tag) {
  if (world() == 1) return at::zeros({numel}, at::TensorOptions().dtype(type).device(options_.device));
  VLM_ASSIGN_OR_RETURN(at::Tensor tensor, collective_->Allocate(numel, type, tag));
  if (tensor.device() != options_.device) {
    return absl::InvalidArgumentError(absl::StrCat(
        "collective and store are of different devices: ", tensor.device().str(), " and ", options_.device.str()));
  }
  return tensor.zero_();
}

absl::Status ParameterStore::AllocateParameters(BucketId id) {
  const BucketSpec& spec = buckets_[id];
  BucketState& state = state_[id];
  if (shards_parameters()) {
    VLM_ASSIGN_OR_RETURN(state.shard, AllocateShared(spec.numel / world(), options_.compute,
                                                     absl::StrCat("shard of the parameters of ", spec.name)));
    state.parameters = EmptyHandle(spec.numel, options_.compute, options_.device);
    resident_.parameters += Bytes(state.shard);
    return absl::OkStatus();
  }
  if (Optimized(id) && shards_state()) {
    VLM_ASSIGN_OR_RETURN(state.parameters,
                         AllocateShared(spec.numel, options_.compute, absl::StrCat("parameters of ", spec.name)));
  } else {
    state.parameters = at::zeros({spec.numel}, at::TensorOptions().dtype(options_.compute).device(options_.device));
  }
  resident_.parameters += Bytes(state.parameters);
  return absl::OkStatus();
}

absl::Status ParameterStore::AllocateBucket(BucketId id) {
  const BucketSpec& spec = buckets_[id];
  BucketState& state = state_[id];
  VLM_CHECK(spec.numel % (kBlockElements * world()) == 0, "buckets were planned for another number of ranks");
  VLM_RETURN_IF_ERROR(AllocateParameters(id));
  const int64_t owned = shards_state() ? spec.numel / world() : spec.numel;
  state.begin = shards_state() ? rank() * owned : 0;
  state.end = state.begin + owned;
  if (!Optimized(id)) return absl::OkStatus();
  const auto fp32 = at::TensorOptions().dtype(at::kFloat).device(options_.device);
  if (shards_state()) {
    state.accumulator = at::zeros({owned}, fp32);
  } else {
    VLM_ASSIGN_OR_RETURN(state.accumulator,
                         AllocateShared(spec.numel, at::kFloat, absl::StrCat("gradient of ", spec.name)));
  }
  state.first_moment = at::zeros({owned}, fp32);
  state.second_moment = at::zeros({owned}, fp32);
  state.master = has_separate_master() ? at::zeros({owned}, fp32) : OwnedParameters(id);
  resident_.gradients += Bytes(state.accumulator);
  resident_.moments += Bytes(state.first_moment) + Bytes(state.second_moment);
  if (has_separate_master()) resident_.master += Bytes(state.master);
  return absl::OkStatus();
}

at::Tensor ParameterStore::OwnedParameters(BucketId id) const {
  const BucketState& state = state_[id];
  return shards_parameters() ? state.shard : state.parameters.narrow(0, state.begin, state.end - state.begin);
}

absl::Status ParameterStore::AllocateSlots() {
  for (size_t slot = 0; slot < slot_plan_.slot_numel.size(); ++slot) {
    VLM_ASSIGN_OR_RETURN(at::Tensor tensor, AllocateShared(slot_plan_.slot_numel[slot], options_.compute,
                                                           absl::StrCat("gradient slot ", slot)));
    resident_.gradients += Bytes(tensor);
    slots_.push_back(std::move(tensor));
  }
  slot_reduced_.resize(slots_.size());
  return absl::OkStatus();
}

at::Tensor ParameterStore::MyShard(const at::Tensor& full) const {
  const int64_t numel = full.numel() / world();
  return full.narrow(0, rank() * numel, numel);
}

Ticket ParameterStore::SubmitCounted(std::atomic<int64_t>* bytes, std::function<absl::Status()> call) {
  return queue_->Submit([this, bytes, call = std::move(call)] {
    const uint64_t before = collective_->bytes_communicated();
    absl::Status status = call();
    bytes->fetch_add(static_cast<int64_t>(collective_->bytes_communicated() - before), std::memory_order_relaxed);
    return status;
  });
}

Ledger ParameterStore::ledger() const {
  Ledger ledger;
  ledger.resident = resident_;
  ledger.resident.gathered = gather_buffers_.bytes();
  ledger.communicated = {reduced_.load(std::memory_order_relaxed), gathered_parameters_.load(std::memory_order_relaxed),
                         gathered_gradients_.load(std::memory_order_relaxed),
                         gathered_state_.load(std::memory_order_relaxed)};
  return ledger;
}

Ticket ParameterStore::Acquire(BucketId bucket) {
  BucketState& state = state_[bucket];
  const bool lends = shards_parameters() && state.acquisitions == 0;
  ++state.acquisitions;
  if (!state.stale && !lends) return state.gathered;
  if (lends) {
    state.lent = gather_buffers_.Take(state.parameters.numel());
    LendMemory(state.lent, state.parameters);
  }
  // Values that are gathered once more are those a saved view has seen: to autograd nothing was written.
  const bool changed = std::exchange(state.stale, false);
  const at::Tensor shard = shards_parameters() ? state.shard : MyShard(state.parameters);
  state.gathered =
      SubmitCounted(&gathered_parameters_, [this, bucket, changed, shard, full = state.parameters]() -> absl::Status {
        at::NoGradGuard no_grad;
        VLM_RETURN_IF_ERROR(collective_->AllGather(shard, full, "parameters of " + buckets_[bucket].name));
        if (changed) torch::autograd::impl::bump_version(full);
        return absl::OkStatus();
      });
  return state.gathered;
}

void ParameterStore::Release(BucketId bucket) {
  BucketState& state = state_[bucket];
  VLM_CHECK(state.acquisitions > 0, "bucket released more often than acquired: " + buckets_[bucket].name);
  if (--state.acquisitions > 0 || !state.lent.defined()) return;
  queue_->Wait(state.gathered).IgnoreError();  // told to whoever waited for it; here only the writing must have ended
  TakeMemoryBack(state.parameters);
  gather_buffers_.Return(std::exchange(state.lent, at::Tensor()));
}

absl::StatusOr<model::Params> ParameterStore::Views(model::NodeId node) const {
  at::NoGradGuard no_grad;
  model::Params views;
  for (ParamId param : graph_->nodes[node].params) {
    const auto [bucket, offset] = location_[param];
    const BucketState& state = state_[bucket];
    if (state.acquisitions == 0 || state.stale || !state.gathered.Done()) {
      return absl::FailedPreconditionError(
          absl::StrCat("parameters read before they were acquired and current, bucket ", buckets_[bucket].name,
                       ", node ", graph_->nodes[node].name));
    }
    const std::vector<int64_t>& shape = graph_->params[param].shape;
    views.push_back(state.parameters.narrow(0, offset, NumElements(shape)).view(shape).detach());
  }
  return views;
}

absl::StatusOr<at::Tensor> ParameterStore::Slot(BucketId bucket) {
  const int slot = slot_plan_.slot_of_bucket[bucket];
  at::Tensor tensor = slots_[slot].narrow(0, 0, buckets_[bucket].numel);
  if (state_[bucket].slot_open) return tensor;
  VLM_RETURN_IF_ERROR(queue_->Wait(slot_reduced_[slot]));
  tensor.zero_();
  state_[bucket].slot_open = true;
  return tensor;
}

absl::StatusOr<model::GradSink> ParameterStore::Gradients(model::NodeId node) {
  at::NoGradGuard no_grad;
  model::GradSink sink;
  for (ParamId param : graph_->nodes[node].params) {
    const auto [bucket, offset] = location_[param];
    if (!Optimized(bucket)) {
      sink.slots.emplace_back();
      continue;
    }
    VLM_ASSIGN_OR_RETURN(const at::Tensor slot, Slot(bucket));
    const std::vector<int64_t>& shape = graph_->params[param].shape;
    sink.slots.push_back(slot.narrow(0, offset, NumElements(shape)).view(shape));
  }
  return sink;
}

Ticket ParameterStore::ReduceAccumulate(BucketId bucket) {
  BucketState& state = state_[bucket];
  const int slot = slot_plan_.slot_of_bucket[bucket];
  const bool contributes = std::exchange(state.slot_open, false);
  const at::Tensor send = slots_[slot].narrow(0, 0, buckets_[bucket].numel);  // not read unless it contributes
  Ticket ticket = SubmitCounted(&reduced_, [this, bucket, send, contributes, shard = AccumulatedShard(bucket)] {
    at::NoGradGuard no_grad;
    return collective_->ReduceScatterAdd(send, contributes, shard, "gradient of " + buckets_[bucket].name);
  });
  if (contributes) slot_reduced_[slot] = ticket;
  return ticket;
}

at::Tensor ParameterStore::AccumulatedShard(BucketId bucket) const {
  const at::Tensor& accumulator = state_[bucket].accumulator;
  return shards_state() ? accumulator : MyShard(accumulator);
}

absl::Status ParameterStore::FinishGradients(const std::vector<bool>& reached) {
  for (BucketId id = 0; id < static_cast<BucketId>(buckets_.size()); ++id) {
    if (shards_state() || world() == 1 || !reached[id]) continue;
    SubmitCounted(&gathered_gradients_, [this, id, full = state_[id].accumulator] {
      return collective_->AllGather(MyShard(full), full, "gradient of " + buckets_[id].name);
    });
  }
  return queue_->Drain();
}

OptimizerShard ParameterStore::Shard(BucketId bucket) const {
  const BucketState& state = state_[bucket];
  return {state.begin, state.end, state.master, state.first_moment, state.second_moment, state.accumulator};
}

absl::Status ParameterStore::Updated(BucketId bucket) {
  at::NoGradGuard no_grad;
  BucketState& state = state_[bucket];
  if (state.acquisitions > 0) {
    return absl::FailedPreconditionError("parameters written while acquired, bucket " + buckets_[bucket].name);
  }
  if (has_separate_master()) OwnedParameters(bucket).copy_(state.master);
  torch::autograd::impl::bump_version(state.parameters);
  state.stale = shards_state() && world() > 1;
  return absl::OkStatus();
}

void ParameterStore::ClearGradients() {
  at::NoGradGuard no_grad;
  for (BucketState& state : state_) {
    if (state.accumulator.defined()) state.accumulator.zero_();
  }
}

absl::Status ParameterStore::WriteParameter(ParamId param, const at::Tensor& value) {
  at::NoGradGuard no_grad;
  const auto [bucket, offset] = location_[param];
  const int64_t numel = NumElements(graph_->params[param].shape);
  if (value.numel() != numel) {
    return absl::InvalidArgumentError(absl::StrCat("value of another size for parameter ", graph_->params[param].name,
                                                   ": ", value.numel(), " elements instead of ", numel));
  }
  VLM_ASSIGN_OR_RETURN(const OwnedPart part, PartToLoad(param));
  const at::Tensor flat = value.detach().reshape({numel});
  SetPart(param, part, flat.narrow(0, part.begin, part.end - part.begin));
  if (shards_parameters()) {
    state_[bucket].stale = true;
  } else if (part.end - part.begin < numel) {
    state_[bucket].parameters.narrow(0, offset, numel).copy_(flat);
  }
  return absl::OkStatus();
}

absl::StatusOr<ParameterStore::OwnedPart> ParameterStore::PartToLoad(ParamId param) {
  const auto [bucket, offset] = location_[param];
  const BucketState& state = state_[bucket];
  if (state.acquisitions > 0) {
    return absl::FailedPreconditionError(absl::StrCat("parameter written while its bucket is acquired: ",
                                                      graph_->params[param].name, ", bucket ", buckets_[bucket].name));
  }
  const int64_t numel = NumElements(graph_->params[param].shape);
  const int64_t begin = std::clamp<int64_t>(state.begin - offset, 0, numel);
  const int64_t end = std::clamp<int64_t>(state.end - offset, 0, numel);
  const int64_t place = begin < end ? offset + begin - state.begin : 0;
  return OwnedPart{begin, end, OwnedParameters(bucket).narrow(0, place, end - begin)};
}

void ParameterStore::PartLoaded(ParamId param, const OwnedPart& part, const at::Tensor& values) {
  at::NoGradGuard no_grad;
  SetPart(param, part, values);
  state_[BucketOf(param)].stale = shards_state() && world() > 1;
}

void ParameterStore::SetPart(ParamId param, const OwnedPart& part, const at::Tensor& values) {
  const auto [bucket, offset] = location_[param];
  const BucketState& state = state_[bucket];
  if (!values.is_same(part.memory)) part.memory.copy_(values);
  if (Optimized(bucket) && has_separate_master() && part.begin < part.end) {
    state.master.narrow(0, offset + part.begin - state.begin, part.end - part.begin).copy_(values);
  }
  torch::autograd::impl::bump_version(state.parameters);
}

absl::StatusOr<at::Tensor> ParameterStore::ReadParameter(ParamId param) const {
  at::NoGradGuard no_grad;
  const auto [bucket, offset] = location_[param];
  const BucketState& state = state_[bucket];
  if (state.stale || !state.gathered.Done() || (shards_parameters() && state.acquisitions == 0)) {
    return absl::FailedPreconditionError(
        absl::StrCat("parameter read before its bucket was acquired: ", graph_->params[param].name));
  }
  const std::vector<int64_t>& shape = graph_->params[param].shape;
  return state.parameters.narrow(0, offset, NumElements(shape)).clone().view(shape);
}

at::Tensor ParameterStore::StateShard(BucketId bucket, StateKind kind) const {
  switch (kind) {
    case StateKind::kMaster:
      return state_[bucket].master;
    case StateKind::kFirstMoment:
      return state_[bucket].first_moment;
    case StateKind::kSecondMoment:
      return state_[bucket].second_moment;
  }
  return {};
}

absl::StatusOr<at::Tensor> ParameterStore::GatherState(BucketId bucket, StateKind kind) {
  at::NoGradGuard no_grad;
  const at::Tensor shard = StateShard(bucket, kind);
  const int64_t numel = buckets_[bucket].numel;
  if (shard.numel() == numel) return shard;
  const at::Tensor full = at::empty({numel}, shard.options());
  resident_.scratch = std::max(resident_.scratch, Bytes(full));
  const Ticket ticket = SubmitCounted(&gathered_state_, [this, bucket, shard, full] {
    return collective_->AllGather(shard, full, "optimizer state of " + buckets_[bucket].name);
  });
  VLM_RETURN_IF_ERROR(queue_->Wait(ticket));
  return full;
}

}  // namespace vlm::train
