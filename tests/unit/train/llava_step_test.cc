// The engine with the real model: hand-written backwards, the one-pass head, packed documents.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

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

// Losses of 200 steps on two micro-batches that are learned by heart.
std::vector<double> LossesOf200Steps(at::ScalarType compute) {
  LlavaRunOptions options;
  options.config = model::testing::SmallLlava();
  options.documents = {{options.config.ImageTokens() + 7, 1}, {9, 0}};
  options.compute = compute;
  options.same_batches = true;
  LlavaRun run(options);
  std::vector<double> losses;
  for (int step = 0; step < 200; ++step) losses.push_back(run.Step().loss);
  return losses;
}

// fp32 masters and moments keep bf16 beside fp32: the loss stays within the band of every step, and a second run gives
// the same bits.
TEST(LlavaStepTest, Bf16StaysWithinABandOfFp32) {
  constexpr double kBand = 0.02;  // of the fp32 loss
  const std::vector<double> fp32 = LossesOf200Steps(at::kFloat), bf16 = LossesOf200Steps(at::kBFloat16);
  EXPECT_LT(fp32.back(), 0.5 * fp32.front());
  double widest = 0;
  for (size_t step = 0; step < fp32.size(); ++step) {
    const double apart = std::abs(bf16[step] - fp32[step]) / fp32[step];
    EXPECT_LE(apart, kBand) << "step " << step + 1 << ": " << bf16[step] << " and " << fp32[step];
    widest = std::max(widest, apart);
  }
  EXPECT_GT(widest, 0);
  RecordProperty("widest_relative_difference", std::to_string(widest));
  EXPECT_EQ(LossesOf200Steps(at::kBFloat16), bf16);
}

}  // namespace
}  // namespace vlm::train
