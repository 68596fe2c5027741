// The engine with the real model: hand-written backwards, the one-pass head, packed documents.
#include <gtest/gtest.h>

#include "../model/graph_runner.h"
#include "gang_run.h"
#include "llava_run.h"
#include "model/llava.h"

namespace vlm::train {
namespace {

struct GangOfLlavas {
  int world = 1;
  std::optional<Transport> transport = {};
  LlavaRunOptions options = {};
  int steps = 3;
};

// Two documents with a picture, but for micro-batch 1.
std::vector<model::testing::DocumentShape> Documents(int64_t image_tokens, int64_t m) {
  if (m == 1) return {{8, 0}, {11, 0}};
  return {{image_tokens + 7, 1}, {9, 0}};
}

GangResult Train(const GangOfLlavas& gang) {
  GangResult result;
  LlavaRunOptions options = gang.options;
  options.config = model::testing::SmallLlava();
  options.micro_batches = 3;
  const int64_t image_tokens = options.config.ImageTokens();
  options.documents_of = [image_tokens](uint64_t, int64_t m) { return Documents(image_tokens, m); };
  RunConnected(gang.transport, gang.world, [&](Collective* collective) {
    LlavaRun run(options, collective);
    for (int step = 1; step <= gang.steps; ++step) {
      const StepResult one = run.Step();
      if (collective->rank() != 0) continue;
      result.losses.push_back(one.loss);
      result.norms.push_back(one.gradient_norm);
    }
    auto weights = AllWeights(run.store());
    if (collective->rank() == 0) result.weights = std::move(weights);
  });
  return result;
}

TEST(LlavaStepTest, BitsDoNotDependOnRanksZeroLevelOverlapOrRecompute) {
  const GangResult one = Train({});
  ASSERT_EQ(one.losses.size(), 3u);
  ExpectEqualBits(one, Train({.world = 2}), "2 ranks, zero 2");
  ExpectEqualBits(one, Train({.world = 2, .options = {.zero = ZeroLevel::kZero0, .overlap = true}}), "zero 0");
  ExpectEqualBits(one, Train({.world = 2, .options = {.zero = ZeroLevel::kZero1}}), "zero 1");
  ExpectEqualBits(one, Train({.world = 3, .options = {.overlap = true}}), "3 ranks, zero 2, overlap");
  ExpectEqualBits(one, Train({.world = 2, .options = {.zero = ZeroLevel::kZero3, .overlap = true}}), "zero 3");
  ExpectEqualBits(one, Train({.options = {.recompute = true}}), "recompute");
  ExpectEqualBits(one, Train({.world = 2, .options = {.zero = ZeroLevel::kZero3, .recompute = true}}),
                  "zero 3, recompute");
}

// Micro-batch 1 has no picture, so with two and three ranks one rank joins the picture branch's communication only.
TEST(LlavaStepTest, BitsAreThoseOfOneRankOverRealTransports) {
  const GangResult one = Train({});
  const LlavaRunOptions overlap{.overlap = true}, replicated{.zero = ZeroLevel::kZero0},
      sharded{.zero = ZeroLevel::kZero3, .overlap = true};
  ExpectEqualBits(one, Train({2, Transport::kSharedMemory, overlap}), "shared memory, zero 2, overlap");
  ExpectEqualBits(one, Train({2, Transport::kSharedMemory, sharded}), "shared memory, zero 3, overlap");
  ExpectEqualBits(one, Train({3, Transport::kTcp, overlap}), "tcp, zero 2, overlap");
  ExpectEqualBits(one, Train({2, Transport::kTcp, replicated}), "tcp, zero 0");
}

TEST(LlavaStepTest, AlignmentTrainsTheConnectorAlone) {
  const GangResult before = Train({.steps = 0});
  const GangOfLlavas gang{.world = 2, .options = {.trainable = {"connector"}}};
  const GangResult after = Train(gang);
  for (const auto& [name, weight] : after.weights) {
    EXPECT_EQ(EqualBits(weight, before.weights.at(name)), model::ParameterGroup(name) != "connector") << name;
  }
  GangOfLlavas single = gang;
  single.world = 1;
  ExpectEqualBits(Train(single), after, "1 and 2 ranks");
  GangOfLlavas sharded = gang;
  sharded.options.zero = ZeroLevel::kZero3;
  ExpectEqualBits(Train(sharded), after, "frozen parameters in shards");
}

TEST(LlavaStepTest, Bf16OnOneAndTwoRanks) {
  GangOfLlavas gang{.options = {.compute = at::kBFloat16}};
  const GangResult one = Train(gang);
  gang.world = 2;
  ExpectEqualBits(one, Train(gang), "bf16");
}

}  // namespace
}  // namespace vlm::train
