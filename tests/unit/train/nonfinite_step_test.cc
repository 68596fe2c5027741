// A step whose loss or gradient is not finite: every rank leaves it out, whoever met the number, and nothing of it
// stays.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gang_run.h"
#include "must.h"

namespace vlm::train {
namespace {

using StateKind = ParameterStore::StateKind;

// Everything a rank holds that a step may change, in an order of its own.
struct RankState {
  std::vector<at::Tensor> tensors;  // shards of moments and masters, then whole weights
  std::vector<int64_t> counts;      // Adam's, by bucket
};

RankState StateOf(ParameterStore* store) {
  RankState state;
  for (BucketId id = 0; id < static_cast<BucketId>(store->buckets().size()); ++id) {
    state.counts.push_back(store->optimizer_steps(id));
    if (!store->Optimized(id)) continue;
    state.tensors.push_back(store->StateShard(id, StateKind::kFirstMoment).clone());
    state.tensors.push_back(store->StateShard(id, StateKind::kSecondMoment).clone());
    if (store->has_separate_master()) state.tensors.push_back(store->StateShard(id, StateKind::kMaster).clone());
  }
  for (auto& [name, weight] : AllWeights(store)) state.tensors.push_back(weight.clone());
  return state;
}

void ExpectSame(const RankState& a, const RankState& b) {
  EXPECT_EQ(a.counts, b.counts);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (size_t i = 0; i < a.tensors.size(); ++i) EXPECT_TRUE(EqualBits(a.tensors[i], b.tensors[i])) << "tensor " << i;
}

struct Case {
  int world;
  ZeroLevel zero;
  at::ScalarType compute;
  int64_t micro_batch;  // the one with the bad number; its rank is micro_batch mod world
  float value;
};

class NonFiniteStepTest : public ::testing::TestWithParam<Case> {};

TEST_P(NonFiniteStepTest, LeavesParametersMomentsAndCountsAndMovesTheSchedule) {
  constexpr uint64_t kBadStep = 2, kSteps = 3;
  GangOptions options;
  options.world = GetParam().world;
  options.zero = GetParam().zero;
  options.compute = GetParam().compute;
  options.steps = kSteps;
  options.images = [](uint64_t, int64_t) { return 1; };
  options.training.lr_schedule = {LrShape::kLinear, 0, 10, 0.1};
  GangOptions clean = options;
  options.change = [](uint64_t step, model::MicroBatch* batch) {
    if (step == kBadStep && batch->global_index == GetParam().micro_batch) batch->pixels.fill_(GetParam().value);
  };
  const std::vector<StepResult> undisturbed = RunGang(clean).results;
  RunConnected(std::nullopt, options.world, [&](Collective* collective) {
    SCOPED_TRACE(absl::StrCat("rank ", collective->rank()));
    ToyRank rank(options, collective);
    std::vector<RankState> states;
    std::vector<StepResult> results;
    Must(rank.training()->Announce(1, rank.Headers(1)));
    for (uint64_t step = 1; step <= kSteps; ++step) {
      if (step < kSteps) Must(rank.training()->Announce(step + 1, rank.Headers(step + 1)));
      results.push_back(Must(rank.training()->Step(rank.Batches(step))));
      states.push_back(StateOf(rank.store()));
    }
    for (uint64_t step = 1; step <= kSteps; ++step) {
      EXPECT_EQ(results[step - 1].non_finite, step == kBadStep) << "step " << step;
      EXPECT_EQ(results[step - 1].lr, undisturbed[step - 1].lr) << "the schedule goes on, step " << step;
      EXPECT_EQ(results[step - 1].step, step);
    }
    EXPECT_EQ(results.back().non_finite_steps, 1u);
    ExpectSame(states[0], states[1]);
    for (size_t id = 0; id < states[2].counts.size(); ++id) {
      const bool optimized = rank.store()->Optimized(static_cast<BucketId>(id));
      EXPECT_EQ(states[2].counts[id], optimized ? 2 : 0) << "bucket " << id;
    }
    bool moved = false;
    for (size_t i = 0; i < states[2].tensors.size(); ++i) {
      moved = moved || !EqualBits(states[1].tensors[i], states[2].tensors[i]);
    }
    EXPECT_TRUE(moved) << "the step after it trains";
  });
}

std::vector<Case> Cases() {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  std::vector<Case> cases;
  for (const ZeroLevel zero : {ZeroLevel::kZero0, ZeroLevel::kZero1, ZeroLevel::kZero2, ZeroLevel::kZero3}) {
    for (const int world : {1, 2, 3}) {
      for (int64_t culprit = 0; culprit < world; ++culprit) cases.push_back({world, zero, at::kFloat, culprit, kNaN});
    }
    cases.push_back({2, zero, at::kFloat, 4, kInfinity});  // in the last, uneven micro-step
    cases.push_back({2, zero, at::kBFloat16, 1, kNaN});
  }
  return cases;
}

std::string NameOf(const ::testing::TestParamInfo<Case>& info) {
  const Case& one = info.param;
  return absl::StrCat("World", one.world, "Zero", static_cast<int>(one.zero), "MicroBatch", one.micro_batch,
                      one.compute == at::kFloat ? "" : "Bf16", std::isinf(one.value) ? "Infinity" : "NaN");
}

INSTANTIATE_TEST_SUITE_P(EveryCulprit, NonFiniteStepTest, ::testing::ValuesIn(Cases()), &NameOf);

}  // namespace
}  // namespace vlm::train
