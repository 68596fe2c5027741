#include "train/training_step.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "gang_run.h"
#include "thread_collective.h"

namespace vlm::train {
namespace {

TEST(TrainingStepTest, OneRankLearns) {
  GangOptions options;
  options.steps = 20;
  options.same_batches = true;
  const GangResult result = RunGang(options);
  ASSERT_EQ(result.losses.size(), 20u);
  EXPECT_LT(result.losses.back(), 0.6 * result.losses.front());
}

// Every bucket its own: wide blocks. Uneven last micro-step, text-only ranks, a step without any picture.
GangOptions WideRun() {
  GangOptions options;
  options.toy.hidden = 184;
  options.steps = 20;
  options.micro_batches = 5;
  options.images = [](uint64_t step, int64_t m) {
    return step % 7 == 0 ? 0 : static_cast<int64_t>((step + static_cast<uint64_t>(m)) % 3);
  };
  return options;
}

const GangResult& OneRank() {
  static const GangResult* const result = new GangResult(RunGang(WideRun()));
  return *result;
}

struct Layout {
  int world;
  ZeroLevel zero;
  bool overlap;
  std::optional<Transport> transport;
};

class EqualityTest : public testing::TestWithParam<Layout> {};

TEST_P(EqualityTest, TwentyStepsGiveTheBitsOfOneRank) {
  GangOptions options = WideRun();
  options.world = GetParam().world;
  options.zero = GetParam().zero;
  options.overlap = GetParam().overlap;
  options.transport = GetParam().transport;
  ExpectEqualBits(OneRank(), RunGang(options), "against one rank, zero 2, no overlap");
}

std::string LayoutName(const testing::TestParamInfo<Layout>& info) {
  static constexpr const char* kTransports[] = {"", "SharedMemory", "Tcp"};
  return "Ranks" + std::to_string(info.param.world) + "Zero" + std::to_string(static_cast<int>(info.param.zero)) +
         (info.param.overlap ? "Overlap" : "Inline") +
         (info.param.transport.has_value() ? kTransports[static_cast<int>(*info.param.transport)] : "");
}

INSTANTIATE_TEST_SUITE_P(Layouts, EqualityTest,
                         testing::Values(Layout{1, ZeroLevel::kZero0, false}, Layout{1, ZeroLevel::kZero3, true},
                                         Layout{2, ZeroLevel::kZero0, true}, Layout{2, ZeroLevel::kZero1, false},
                                         Layout{2, ZeroLevel::kZero1, true}, Layout{2, ZeroLevel::kZero2, false},
                                         Layout{2, ZeroLevel::kZero3, false}, Layout{2, ZeroLevel::kZero3, true},
                                         Layout{3, ZeroLevel::kZero0, false}, Layout{3, ZeroLevel::kZero1, true},
                                         Layout{3, ZeroLevel::kZero2, true}, Layout{3, ZeroLevel::kZero3, false}),
                         LayoutName);

// What ranks use in production; WideRun has micro-batches, and so ranks, without a picture.
INSTANTIATE_TEST_SUITE_P(Transports, EqualityTest,
                         testing::Values(Layout{2, ZeroLevel::kZero2, false, Transport::kSharedMemory},
                                         Layout{2, ZeroLevel::kZero0, true, Transport::kSharedMemory},
                                         Layout{2, ZeroLevel::kZero1, false, Transport::kSharedMemory},
                                         Layout{3, ZeroLevel::kZero3, true, Transport::kSharedMemory},
                                         Layout{2, ZeroLevel::kZero3, true, Transport::kTcp},
                                         Layout{3, ZeroLevel::kZero0, false, Transport::kTcp}),
                         LayoutName);

TEST(TrainingStepTest, RecomputeGivesTheSameBitsWithFewerActivations) {
  GangOptions options = WideRun();
  options.steps = 3;
  options.toy.blocks = 6;
  options.training.measure_activations = true;
  const GangResult saved = RunGang(options);
  options.training.plan.recompute = true;
  const GangResult recomputed = RunGang(options);
  ExpectEqualBits(saved, recomputed, "recompute");
  EXPECT_GT(recomputed.ledgers[0].resident.activations, 0);
  EXPECT_LT(recomputed.ledgers[0].resident.activations, saved.ledgers[0].resident.activations);
}

TEST(TrainingStepTest, EveryGroupHasItsOwnRate) {
  GangOptions options = WideRun();
  options.steps = 0;
  const GangResult before = RunGang(options);
  options.steps = 1;
  for (const bool connector_rests : {true, false}) {
    options.training = GangOptions::DefaultTraining();
    const double of_connector = connector_rests ? 0 : 1e-3;
    options.training.optimizer.lr = 1e-3 - of_connector;
    options.training.optimizer.rules = {{"connector", of_connector, 0.1}};
    const GangResult after = RunGang(options);
    int resting = 0, moving = 0;
    for (const auto& [name, weight] : after.weights) {
      if (name.find(".post.") != std::string::npos) continue;  // no result needs it, so nothing moves it
      const bool is_connector = name.find("projector") != std::string::npos;
      const bool rests = is_connector == connector_rests;
      EXPECT_EQ(EqualBits(weight, before.weights.at(name)), rests) << name;
      ++(rests ? resting : moving);
    }
    EXPECT_GT(resting, 0);
    EXPECT_GT(moving, 0);
  }
}

TEST(TrainingStepTest, PrefetchDepthDoesNotChangeBits) {
  GangOptions options = WideRun();
  options.steps = 4;
  options.world = 2;
  const GangResult one = RunGang(options);
  options.training.plan.prefetch = 3;
  options.overlap = true;
  ExpectEqualBits(one, RunGang(options), "prefetch 3");
}

TEST(TrainingStepTest, Bf16ComputeWithFp32MastersIsEqualOnAnyWorldToo) {
  GangOptions options = WideRun();
  options.compute = at::kBFloat16;
  options.steps = 3;
  const GangResult one = RunGang(options);
  EXPECT_EQ(one.weights.at("language_model.embed.weight").scalar_type(), at::kBFloat16);
  options.world = 2;
  for (ZeroLevel zero : {ZeroLevel::kZero0, ZeroLevel::kZero1, ZeroLevel::kZero2, ZeroLevel::kZero3}) {
    options.zero = zero;
    ExpectEqualBits(one, RunGang(options), "bf16");
  }
  EXPECT_NEAR(one.losses[0], OneRank().losses[0], 0.05 * OneRank().losses[0]);
}

TEST(TrainingStepTest, FrozenPartsKeepTheirBits) {
  GangOptions options;
  options.trainable = {"connector", "llm.blocks[-1:]"};
  options.world = 2;
  options.steps = 4;
  std::map<std::string, at::Tensor> initial;
  options.before = [&](ParameterStore* store) {
    auto weights = AllWeights(store);
    if (store->rank() == 0) initial = std::move(weights);
  };
  const GangResult result = RunGang(options);
  for (const auto& [name, weight] : result.weights) {
    const bool trains = name.find("multi_modal_projector") == 0 || name.find("language_model.layers.2") == 0;
    EXPECT_EQ(EqualBits(weight, initial.at(name)), !trains) << name;
  }
}

TEST(TrainingStepTest, WhatAStepDoesNotReachIsNotTouched) {
  GangOptions options;
  options.images = [](uint64_t, int64_t) { return 0; };
  options.steps = 3;
  options.world = 2;
  std::map<std::string, at::Tensor> initial;
  options.before = [&](ParameterStore* store) {
    auto weights = AllWeights(store);
    if (store->rank() == 0) initial = std::move(weights);
  };
  options.after = [](ParameterStore* store) {
    for (BucketId id = 0; id < static_cast<BucketId>(store->buckets().size()); ++id) {
      const bool text = store->buckets()[id].name.find("llm") == 0;
      EXPECT_EQ(store->optimizer_steps(id), text ? 3 : 0) << store->buckets()[id].name;
    }
  };
  const GangResult result = RunGang(options);
  for (const auto& [name, weight] : result.weights) {
    EXPECT_EQ(EqualBits(weight, initial.at(name)), name.find("language_model") != 0) << name;
  }
}

TEST(TrainingStepTest, NonFiniteStepIsSkippedByAllRanksAndCounted) {
  GangOptions options;
  options.world = 2;
  options.steps = 4;
  options.change = [](uint64_t step, model::MicroBatch* batch) {
    if (step == 2 && batch->global_index == 1) batch->pixels.fill_(std::numeric_limits<float>::quiet_NaN());
  };
  options.images = [](uint64_t, int64_t) { return 1; };
  options.after = [](ParameterStore* store) {
    for (BucketId id = 0; id < static_cast<BucketId>(store->buckets().size()); ++id) {
      EXPECT_EQ(store->optimizer_steps(id), store->Optimized(id) ? 3 : 0);
    }
  };
  const GangResult result = RunGang(options);
  EXPECT_FALSE(result.results[0].non_finite);
  EXPECT_TRUE(result.results[1].non_finite);
  EXPECT_FALSE(result.results[2].non_finite);
  EXPECT_EQ(result.results[3].non_finite_steps, 1u);
  EXPECT_TRUE(std::isfinite(result.losses[3]));
  for (const auto& [name, weight] : result.weights) EXPECT_TRUE(at::isfinite(weight).all().item<bool>()) << name;
}

TEST(TrainingStepTest, SkippedStepLeavesNoTrace) {
  GangOptions clean;
  clean.steps = 2;
  clean.training.lr_schedule = {LrShape::kConstant, 0, 10, 0};
  clean.images = [](uint64_t, int64_t) { return 1; };
  GangOptions dirty = clean;
  dirty.steps = 3;
  dirty.batch_step = [](uint64_t step) { return step == 1 ? 1 : step - 1; };  // 1, 1 (broken), 2
  dirty.change = [](uint64_t step, model::MicroBatch* batch) {
    if (step == 2) batch->pixels.fill_(std::numeric_limits<float>::infinity());
  };
  const GangResult a = RunGang(clean), b = RunGang(dirty);
  EXPECT_TRUE(b.results[1].non_finite);
  for (const auto& [name, weight] : a.weights) EXPECT_TRUE(EqualBits(weight, b.weights.at(name))) << name;
}

TEST(TrainingStepTest, ReportsTotalsAndRates) {
  GangOptions options;
  options.world = 2;
  options.steps = 3;
  const GangResult result = RunGang(options);
  model::Counts totals;
  for (int64_t m = 0; m < options.micro_batches; ++m) {
    const model::Counts counts = ToyBatch(options.toy, 3, m, m % 3).counts;
    totals.tokens += counts.tokens;
    totals.images += counts.images;
  }
  EXPECT_EQ(result.results[2].step, 3u);
  EXPECT_EQ(result.results[2].totals.tokens, totals.tokens);
  EXPECT_EQ(result.results[2].totals.images, totals.images);
  EXPECT_DOUBLE_EQ(result.results[0].lr, 0.5e-2);
  EXPECT_DOUBLE_EQ(result.results[1].lr, 1e-2);
  EXPECT_GT(result.results[2].gradient_norm, 0);
}

class OneRankTest : public testing::Test {
 protected:
  OneRankTest() : collective_(NewSingleRankCollective()), rank_(options_, collective_.get()) {}
  const GangOptions options_;
  const std::unique_ptr<Collective> collective_;
  ToyRank rank_;
};

TEST_F(OneRankTest, StepsMustBeAnnounced) {
  EXPECT_EQ(rank_.training()->Step(rank_.Batches(1)).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(rank_.training()->Announce(1, rank_.Headers(1)).ok());
  EXPECT_EQ(rank_.training()->Announce(3, rank_.Headers(3)).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(rank_.training()->Announce(2, rank_.Headers(2)).ok());
  EXPECT_EQ(rank_.training()->Announce(3, rank_.Headers(3)).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(OneRankTest, OtherMicroBatchesThanAnnouncedAreRefused) {
  ASSERT_TRUE(rank_.training()->Announce(1, rank_.Headers(1)).ok());
  EXPECT_EQ(rank_.training()->Step(rank_.Batches(2)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(OneRankTest, WhatLibTorchThrowsOutsideANodeNamesTheStep) {
  ASSERT_TRUE(rank_.training()->Announce(1, rank_.Headers(1)).ok());
  std::vector<model::MicroBatch> batches = rank_.Batches(1);
  batches[1].target_weight_K = batches[1].target_weight_K.to(at::kMeta);  // it has no values to read
  const absl::Status status = rank_.training()->Step(batches).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_NE(status.message().find("training step 1 failed: "), absl::string_view::npos) << status;
}

TEST(TrainingStepTest, RanksWithDifferentPlansFailTogether) {
  RunRanks(2, [](Collective* collective) {
    GangOptions options;
    if (collective->rank() == 1) options.training.plan.recompute = true;
    ToyRank rank(options, collective);
    ASSERT_TRUE(rank.training()->Announce(1, rank.Headers(1)).code() != absl::StatusCode::kInternal);
    const absl::Status status = rank.training()->Step(rank.Batches(1)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_NE(status.message().find("rank 1 has"), absl::string_view::npos) << status;
  });
}

TEST(TrainingStepTest, StepWithoutTargetsFailsOnEveryRank) {
  RunRanks(2, [](Collective* collective) {
    GangOptions options;
    options.change = [](uint64_t, model::MicroBatch* batch) { batch->target_weight_K.zero_(); };
    ToyRank rank(options, collective);
    ASSERT_TRUE(rank.training()->Announce(1, rank.Headers(1)).ok());
    EXPECT_EQ(rank.training()->Step(rank.Batches(1)).status().code(), absl::StatusCode::kInvalidArgument);
  });
}

}  // namespace
}  // namespace vlm::train
