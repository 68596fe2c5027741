#include "trainer/stages/training_curve.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "trainer/stages/report.h"

namespace vlm::trainer {
namespace {

std::string Line(uint64_t step) { return absl::StrCat("{\"step\":", step, ",\"loss\":0.5}\n"); }

std::vector<uint64_t> StepsOf(const TrainingCurve& curve) {
  std::vector<uint64_t> steps;
  for (const CurvePoint& point : ParseCurve(curve.Contents())) steps.push_back(point.step);
  return steps;
}

TEST(TrainingCurveTest, HoldsEveryStepUpToItsBound) {
  TrainingCurve curve(/*points_max=*/4);
  for (uint64_t step = 1; step <= 4; ++step) curve.Add(step, Line(step));
  EXPECT_EQ(curve.Contents(), Line(1) + Line(2) + Line(3) + Line(4));
}

TEST(TrainingCurveTest, OfMoreStepsEvenlySpacedOnesStayWithTheNewest) {
  TrainingCurve curve(/*points_max=*/4);
  for (uint64_t step = 1; step <= 5; ++step) curve.Add(step, Line(step));
  EXPECT_EQ(StepsOf(curve), (std::vector<uint64_t>{1, 3, 5}));
  curve.Add(6, Line(6));
  EXPECT_EQ(StepsOf(curve), (std::vector<uint64_t>{1, 3, 5, 6}));
  curve.Add(7, Line(7));
  EXPECT_EQ(StepsOf(curve), (std::vector<uint64_t>{1, 3, 5, 7}));
  for (uint64_t step = 8; step <= 18; ++step) curve.Add(step, Line(step));
  EXPECT_EQ(StepsOf(curve), (std::vector<uint64_t>{1, 9, 17, 18}));
}

TEST(TrainingCurveTest, StaysBoundedOverMillionsOfSteps) {
  TrainingCurve curve;
  for (uint64_t step = 1; step <= 3'000'000; ++step) curve.Add(step, "\n");
  EXPECT_LE(curve.Contents().size(), TrainingCurve::kPointsMax + 1);
  EXPECT_GT(curve.Contents().size(), TrainingCurve::kPointsMax / 2);
}

// Wherever a run is cut and resumed, its curve has the same bytes.
TEST(TrainingCurveTest, AResumeChangesNothing) {
  TrainingCurve whole(/*points_max=*/4);
  for (uint64_t step = 1; step <= 40; ++step) whole.Add(step, Line(step));
  for (uint64_t cut = 1; cut < 40; ++cut) {
    TrainingCurve before(/*points_max=*/4), after(/*points_max=*/4);
    for (uint64_t step = 1; step <= cut; ++step) before.Add(step, Line(step));
    ASSERT_TRUE(after.Restore(before.Contents()).ok());
    for (uint64_t step = cut + 1; step <= 40; ++step) after.Add(step, Line(step));
    EXPECT_EQ(after.Contents(), whole.Contents()) << cut;
  }
}

TEST(TrainingCurveTest, ACurveOfEveryStepIsThinnedWhenItIsRead) {
  std::string every;
  TrainingCurve whole(/*points_max=*/4), read(/*points_max=*/4);
  for (uint64_t step = 1; step <= 23; ++step) {
    every += Line(step);
    whole.Add(step, Line(step));
  }
  ASSERT_TRUE(read.Restore(every).ok());
  EXPECT_EQ(read.Contents(), whole.Contents());
}

TEST(TrainingCurveTest, LinesThatAreNoStepsAreRefused) {
  for (const std::string& bad : {std::string("{}\n"), std::string("x"), Line(2) + Line(2), Line(3) + Line(1),
                                 Line(1) + "\n", std::string("{\"step\":-1}\n"), Line(0)}) {
    TrainingCurve curve;
    EXPECT_TRUE(absl::IsDataLoss(curve.Restore(bad))) << bad;
  }
}

}  // namespace
}  // namespace vlm::trainer
