#include "tests/sim/simulation.h"

#include <gtest/gtest.h>

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
                                 << "; run it alone with --gtest_also_run_disabled_tests "
                                    "--gtest_filter='*OneSeed' --gtest_random_seed="
                                 << seed << "\n"
                                 << first.trail;
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

// For a person: --gtest_also_run_disabled_tests --gtest_filter='*OneSeed' --gtest_random_seed=17 runs seed 17 alone.
TEST(Simulation, DISABLED_OneSeed) {
  const auto seed = static_cast<uint64_t>(testing::GTEST_FLAG(random_seed));
  const SimulationResult result = RunSeed(seed);
  EXPECT_EQ(result.violation, "") << result.trail;
}

// Outside CI: --gtest_also_run_disabled_tests --gtest_random_seed=3 runs the seeds from 3,000 to 3,999 once each.
TEST(Simulation, DISABLED_AThousandSeeds) {
  const uint64_t first = 1000 * static_cast<uint64_t>(testing::GTEST_FLAG(random_seed));
  for (uint64_t seed = first; seed < first + 1000; ++seed) {
    const SimulationResult result = RunSeed(seed);
    EXPECT_EQ(result.violation, "") << "seed " << seed << "\n" << result.trail;
    if (HasFailure()) return;
  }
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
    sum.retries += result.retries;
    sum.attempts += result.attempts;
    sum.succeeded += result.succeeded;
    sum.cancelled += result.cancelled;
    sum.reused_stages += result.reused_stages;
    sum.late_calls += result.late_calls;
    sum.strays += result.strays;
    sum.disk_errors += result.disk_errors;
    sum.publishing_crashes += result.publishing_crashes;
    sum.aborted_steps += result.aborted_steps;
  }
  EXPECT_GT(sum.worker_losses, 10);
  EXPECT_GT(sum.restarts, 20);
  EXPECT_GT(sum.attempts, 150);
  EXPECT_GT(sum.succeeded, 30);
  EXPECT_GT(sum.cancelled, 0);
  EXPECT_GT(sum.reused_stages, 0);
  EXPECT_GT(sum.retries, 5);
  EXPECT_GT(sum.late_calls, 100);
  EXPECT_GT(sum.strays, 10);
  EXPECT_GT(sum.disk_errors, 20);
  EXPECT_GT(sum.publishing_crashes, 3);
  EXPECT_GT(sum.aborted_steps, 10);
}

}  // namespace
}  // namespace vlm::sim
