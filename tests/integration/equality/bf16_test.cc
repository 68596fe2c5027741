// What bf16 promises (train/README.md): equal bits from run to run, and losses within a band of those in fp32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/file_system.h"
#include "tests/integration/equality/outcome.h"
#include "tests/integration/equality/rank_processes.h"
#include "tests/unit/train/llava_run.h"
#include "tests/unit/train/must.h"

namespace vlm::train {
namespace {

constexpr int kSteps = 200;
constexpr double kBand = 0.01;  // of the fp32 loss; stated in train/README.md

// No batch comes twice; every third step's are longer, every fifth step's without pictures.
Outcome TrainAlone(const std::string& name, at::ScalarType compute) {
  LlavaRunOptions options;
  options.config = model::testing::SmallLlava();
  options.compute = compute;
  options.text = model::testing::Text::kChained;
  const int64_t image_tokens = options.config.ImageTokens();
  options.documents_of = [image_tokens](uint64_t step, int64_t m) -> std::vector<model::testing::DocumentShape> {
    const int64_t more = step % 3 == 0 ? 6 : 0;
    if (step % 5 == 0) return {{17 + m, 0}, {20 + more, 0}};
    return {{image_tokens + 14 + m + more, 1}, {19, 0}};
  };
  const std::string folder = NewFolder(name);
  RunRankProcesses(Transport::kSingle, 1, folder, [&](Collective* collective) {
    LlavaRun run(options, collective);
    std::vector<StepFigures> steps;
    for (int step = 0; step < kSteps; ++step) {
      const StepResult result = run.Step();
      steps.push_back({result.loss, result.gradient_norm});
    }
    WriteOutcome(folder, /*rank=*/0, steps, run.store());
  });
  Outcome outcome = testing::Test::HasFailure() ? Outcome() : ReadOutcome(folder, 0);
  Must(RemoveTree(PosixFileSystem(), folder));
  return outcome;
}

TEST(Bf16Test, TwoProcessesGiveTheSameBitsWithinTheBandOfFp32) {
  const Outcome fp32 = TrainAlone("fp32", at::kFloat), bf16 = TrainAlone("bf16", at::kBFloat16);
  ASSERT_EQ(fp32.steps.size(), static_cast<size_t>(kSteps));
  ASSERT_EQ(bf16.steps.size(), fp32.steps.size());
  EXPECT_LT(fp32.steps.back().loss, 0.5 * fp32.steps.front().loss);  // it learns, so the steps before matter
  double widest = 0;
  for (size_t step = 0; step < fp32.steps.size(); ++step) {
    const double one = fp32.steps[step].loss, other = bf16.steps[step].loss, apart = std::abs(other - one) / one;
    EXPECT_LE(apart, kBand) << "step " << step + 1 << ": " << other << " and " << one;
    widest = std::max(widest, apart);
  }
  EXPECT_GT(widest, 0);
  GTEST_LOG_(INFO) << "from " << fp32.steps.front().loss << " to " << fp32.steps.back().loss << ", at most "
                   << 100 * widest << " % apart";
  ExpectSame(bf16, TrainAlone("bf16-again", at::kBFloat16));
}

}  // namespace
}  // namespace vlm::train
