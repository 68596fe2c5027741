#include "tests/sim/simulation.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace vlm::sim {
namespace {

constexpr uint64_t kSeeds = 200;
constexpr uint64_t kShards = 4;  // test cases, so that they run side by side

SimulationResult RunSeed(uint64_t seed, bool faults = true) {
  SimulationOptions options;
  options.seed = seed;
  options.faults = faults;
  return Simulation(options).Run();
}

void CheckSeed(uint64_t seed) {
  const SimulationResult first = RunSeed(seed);
  ASSERT_EQ(first.violation, "") << "seed " << seed << " at " << absl::FormatDuration(first.ended)
                                 << "; run it alone with VLM_SIM_SEED=" << seed << "\n" << first.trail;
  const SimulationResult second = RunSeed(seed);
  ASSERT_EQ(first.hash, second.hash) << "seed " << seed << " gave two traces: something is not deterministic";
}

TEST(Simulation, WithoutFaultsJobsSucceedAtOnce) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const SimulationResult result = RunSeed(seed, /*faults=*/false);
    EXPECT_EQ(result.violation, "") << "seed " << seed << "\n" << result.trail;
    EXPECT_EQ(result.worker_losses, 0) << "seed " << seed;
    EXPECT_GT(result.succeeded + result.cancelled, 0) << "seed " << seed;
  }
}

TEST(Simulation, OneSeed) {
  const char* text = std::getenv("VLM_SIM_SEED");
  uint64_t seed = 0;
  if (text == nullptr || !absl::SimpleAtoi(text, &seed)) GTEST_SKIP() << "VLM_SIM_SEED names no seed";
  const SimulationResult result = RunSeed(seed);
  EXPECT_EQ(result.violation, "") << result.trail;
  RecordProperty("events", absl::StrCat(result.events));
}

class SimulationSeeds : public testing::TestWithParam<uint64_t> {};

TEST_P(SimulationSeeds, KeepTheRules) {
  for (uint64_t seed = 1 + GetParam(); seed <= kSeeds; seed += kShards) {
    CheckSeed(seed);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SimulationSeeds, testing::Range<uint64_t>(0, kShards));

// The faults must really happen, or the rules above are kept by a quiet world.
TEST(Simulation, FaultsHappen) {
  SimulationResult sum;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const SimulationResult result = RunSeed(seed);
    sum.worker_losses += result.worker_losses;
    sum.restarts += result.restarts;
    sum.attempts += result.attempts;
    sum.succeeded += result.succeeded;
    sum.cancelled += result.cancelled;
    sum.reused_stages += result.reused_stages;
  }
  EXPECT_GT(sum.worker_losses, 20);
  EXPECT_GT(sum.restarts, 20);
  EXPECT_GT(sum.attempts, 200);
  EXPECT_GT(sum.succeeded, 30);
  EXPECT_GT(sum.cancelled, 0);
  EXPECT_GT(sum.reused_stages, 0);
}

}  // namespace
}  // namespace vlm::sim
