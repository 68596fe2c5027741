// The engine with the real model: hand-written backwards, the one-pass head, packed documents.
#include <gtest/gtest.h>

#include "../model/graph_runner.h"
#include "gang_run.h"
#include "model/init.h"
#include "model/llava.h"
#include "thread_collective.h"
#include "train/training_step.h"

namespace vlm::train {
namespace {

struct LlavaRun {
  int world = 1;
  std::optional<Transport> transport;
  StoreOptions store;
  bool overlap = false, recompute = false;
  std::vector<std::string> trainable;
  int steps = 3;
};

std::vector<model::MicroBatch> Batches(const model::LlavaConfig& config, uint64_t step, int rank, int world) {
  std::vector<model::MicroBatch> mine;
  for (int m = rank; m < 3; m += world) {
    const int64_t image_tokens = config.ImageTokens();
    std::vector<model::testing::DocumentShape> documents = {{image_tokens + 7, 1}, {9, 0}};
    if (m == 1) documents = {{8, 0}, {11, 0}};
    model::MicroBatch batch = model::testing::RandomBatch(config, documents, 100 * step + static_cast<uint64_t>(m));
    batch.global_index = m;
    mine.push_back(std::move(batch));
  }
  return mine;
}

GangResult Train(const LlavaRun& run) {
  const model::LlavaConfig config = model::testing::SmallLlava();
  GangResult result;
  result.ledgers.resize(static_cast<size_t>(run.world));
  RunConnected(run.transport, run.world, [&](Collective* collective) {
    const model::Graph graph = model::BuildLlava(config).value();
    CommunicationQueue queue(run.overlap, RealClock());
    const auto trainable = SelectTrainable(graph, run.trainable).value();
    const auto store =
        ParameterStore::Create(&graph, PlanBuckets(graph, trainable, run.world), run.store, collective, &queue).value();
    for (size_t i = 0; i < graph.params.size(); ++i) {
      ASSERT_TRUE(store->WriteParameter(static_cast<model::ParamId>(i), model::Initialize(graph.params[i], 11)).ok());
    }
    TrainingOptions options = GangOptions::DefaultTraining();
    options.vocabulary = config.text.vocab_size;
    options.optimizer.rules = {{"connector", 2e-3, std::nullopt}};
    options.plan.recompute = run.recompute;
    const auto training = TrainingStep::Create(options, store.get(), RealClock()).value();
    for (int step = 1; step <= run.steps; ++step) {
      const auto batches = Batches(config, static_cast<uint64_t>(step), collective->rank(), run.world);
      std::vector<MicroBatchHeader> headers;
      for (const model::MicroBatch& batch : batches) headers.push_back(Describe(batch));
      ASSERT_TRUE(training->Announce(static_cast<uint64_t>(step), headers).ok());
      const absl::StatusOr<StepResult> one = training->Step(batches);
      ASSERT_TRUE(one.ok()) << one.status();
      if (collective->rank() != 0) continue;
      result.losses.push_back(one->loss);
      result.norms.push_back(one->gradient_norm);
    }
    auto weights = AllWeights(store.get());
    if (collective->rank() == 0) result.weights = std::move(weights);
  });
  return result;
}

TEST(LlavaStepTest, BitsDoNotDependOnRanksZeroLevelOverlapOrRecompute) {
  const GangResult one = Train({});
  ASSERT_EQ(one.losses.size(), 3u);
  ExpectEqualBits(one, Train({.world = 2}), "2 ranks, zero 2");
  ExpectEqualBits(one, Train({.world = 2, .store = {.zero = ZeroLevel::kZero0}, .overlap = true}), "2 ranks, zero 0");
  ExpectEqualBits(one, Train({.world = 3, .overlap = true}), "3 ranks, zero 2, overlap");
  ExpectEqualBits(one, Train({.recompute = true}), "recompute");
}

// Micro-batch 1 has no picture, so with two and three ranks one rank joins the picture branch's communication only.
TEST(LlavaStepTest, BitsAreThoseOfOneRankOverRealTransports) {
  const GangResult one = Train({});
  ExpectEqualBits(one, Train({.world = 2, .transport = Transport::kSharedMemory, .overlap = true}), "shared memory");
  ExpectEqualBits(one, Train({.world = 3, .transport = Transport::kTcp, .overlap = true}), "tcp, overlap");
  const StoreOptions replicated{.zero = ZeroLevel::kZero0};
  ExpectEqualBits(one, Train({.world = 2, .transport = Transport::kTcp, .store = replicated}), "tcp, zero 0");
}

TEST(LlavaStepTest, AlignmentTrainsTheConnectorAlone) {
  const GangResult before = Train({.steps = 0});
  const LlavaRun run{.world = 2, .trainable = {"connector"}};
  const GangResult after = Train(run);
  for (const auto& [name, weight] : after.weights) {
    EXPECT_EQ(EqualBits(weight, before.weights.at(name)), model::ParameterGroup(name) != "connector") << name;
  }
  LlavaRun single = run;
  single.world = 1;
  ExpectEqualBits(Train(single), after, "1 and 2 ranks");
}

TEST(LlavaStepTest, Bf16OnOneAndTwoRanks) {
  LlavaRun run{.store = {.compute = at::kBFloat16}};
  const GangResult one = Train(run);
  run.world = 2;
  ExpectEqualBits(one, Train(run), "bf16");
}

}  // namespace
}  // namespace vlm::train
