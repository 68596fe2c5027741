#include "gang_run.h"

#include <gtest/gtest.h>

#include <cstring>

#include "must.h"
#include "thread_collective.h"

namespace vlm::train {
TrainingOptions GangOptions::DefaultTraining() {
  TrainingOptions training;
  training.seed = 7;
  training.optimizer.lr = 1e-2;
  training.optimizer.weight_decay = 0.1;
  training.lr_schedule = {LrShape::kCosine, 2, 100, 0.1};
  training.clip_norm = 1.0;
  training.label_smoothing = 0.1;
  training.vocabulary = ToyOptions().vocabulary;
  return training;
}

ToyRank::ToyRank(const GangOptions& options, Collective* collective)
    : options_(options), collective_(collective), graph_(ToyGraph(options.toy)) {
  if (options.change_graph) options.change_graph(&graph_);
  queue_ = std::make_unique<CommunicationQueue>(options.overlap, RealClock());
  const std::vector<bool> trainable = Must(SelectTrainable(graph_, options.trainable));
  store_ = Must(ParameterStore::Create(&graph_, PlanBuckets(graph_, trainable, collective->world()),
                                       {options.zero, options.compute, at::kCPU}, collective, queue_.get()));
  InitializeToy(3, store_.get());
  training_ = Must(TrainingStep::Create(options.training, store_.get(), RealClock()));
}

std::vector<model::MicroBatch> ToyRank::Batches(uint64_t step) const {
  std::vector<model::MicroBatch> batches;
  for (int64_t m = collective_->rank(); m < options_.micro_batches; m += collective_->world()) {
    uint64_t source = options_.batch_step ? options_.batch_step(step) : step;
    if (options_.same_batches) source = 1;
    batches.push_back(ToyBatch(options_.toy, source, m, options_.images(source, m)));
    if (options_.change) options_.change(step, &batches.back());
  }
  return batches;
}

std::vector<MicroBatchHeader> ToyRank::Headers(uint64_t step) const {
  std::vector<MicroBatchHeader> headers;
  for (const model::MicroBatch& batch : Batches(step)) headers.push_back(Describe(batch));
  return headers;
}

std::map<std::string, at::Tensor> AllWeights(ParameterStore* store) {
  std::map<std::string, at::Tensor> weights;
  for (BucketId id = 0; id < static_cast<BucketId>(store->buckets().size()); ++id) {
    Must(store->queue()->Wait(store->Acquire(id)));
    for (const ParamRange& range : store->buckets()[id].ranges) {
      weights[store->graph().params[range.param].name] = Must(store->ReadParameter(range.param));
    }
    store->Release(id);
  }
  return weights;
}

void RunConnected(std::optional<Transport> transport, int world, const std::function<void(Collective*)>& body) {
  if (!transport.has_value()) return RunRanks(world, body);
  const auto statuses = RunRanks(*transport, world, {absl::Minutes(2)}, [&](Collective* collective) {
    body(collective);
    return absl::OkStatus();
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

GangResult RunGang(const GangOptions& options) {
  GangResult result;
  result.ledgers.resize(options.world);
  result.bytes_communicated.resize(options.world);
  RunConnected(options.transport, options.world, [&](Collective* collective) {
    ToyRank rank(options, collective);
    if (options.before) options.before(rank.store());
    const uint64_t last = options.first_step + options.steps - 1;
    Must(rank.training()->Announce(options.first_step, rank.Headers(options.first_step)));
    for (uint64_t step = options.first_step; step <= last; ++step) {
      if (step < last) Must(rank.training()->Announce(step + 1, rank.Headers(step + 1)));
      const StepResult one = Must(rank.training()->Step(rank.Batches(step)));
      if (collective->rank() != 0) continue;
      result.losses.push_back(one.loss);
      result.norms.push_back(one.gradient_norm);
      result.results.push_back(one);
    }
    result.ledgers[collective->rank()] = rank.store()->ledger();
    result.bytes_communicated[collective->rank()] = collective->bytes_communicated();
    if (options.after) options.after(rank.store());
    std::map<std::string, at::Tensor> weights = AllWeights(rank.store());
    if (collective->rank() == 0) result.weights = std::move(weights);
  });
  return result;
}

bool EqualBits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
         std::memcmp(a.contiguous().const_data_ptr(), b.contiguous().const_data_ptr(), a.nbytes()) == 0;
}

void ExpectEqualBits(const GangResult& a, const GangResult& b, const std::string& what) {
  ASSERT_EQ(a.losses.size(), b.losses.size()) << what;
  for (size_t i = 0; i < a.losses.size(); ++i) {
    ASSERT_EQ(a.losses[i], b.losses[i]) << what << ", loss of step " << i;
    ASSERT_EQ(a.norms[i], b.norms[i]) << what << ", norm of step " << i;
  }
  ASSERT_EQ(a.weights.size(), b.weights.size()) << what;
  for (const auto& [name, weight] : a.weights)
    EXPECT_TRUE(EqualBits(weight, b.weights.at(name))) << what << ", " << name;
}

}  // namespace vlm::train
