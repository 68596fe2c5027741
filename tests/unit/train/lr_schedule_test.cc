#include "train/lr_schedule.h"

#include <gtest/gtest.h>

namespace vlm::train {
namespace {

TEST(LrScheduleTest, WarmUpRisesLinearlyToOne) {
  for (LrShape shape : {LrShape::kConstant, LrShape::kLinear, LrShape::kCosine}) {
    const LrScheduleOptions options{shape, 10, 110, 0};
    EXPECT_DOUBLE_EQ(LrFactor(options, 1), 0.1);
    EXPECT_DOUBLE_EQ(LrFactor(options, 5), 0.5);
    EXPECT_DOUBLE_EQ(LrFactor(options, 10), 1.0);
  }
}

TEST(LrScheduleTest, ShapesAfterWarmUp) {
  EXPECT_DOUBLE_EQ(LrFactor({LrShape::kConstant, 10, 110, 0}, 110), 1.0);
  EXPECT_DOUBLE_EQ(LrFactor({LrShape::kLinear, 10, 110, 0}, 35), 0.75);
  EXPECT_DOUBLE_EQ(LrFactor({LrShape::kLinear, 10, 110, 0.1}, 110), 0.1);
  EXPECT_NEAR(LrFactor({LrShape::kCosine, 10, 110, 0}, 60), 0.5, 1e-15);
  EXPECT_NEAR(LrFactor({LrShape::kCosine, 10, 110, 0.2}, 110), 0.2, 1e-15);
  EXPECT_NEAR(LrFactor({LrShape::kCosine, 0, 100, 0}, 25), 0.8535533905932737, 1e-15);
}

TEST(LrScheduleTest, WithoutWarmUpAndPastTheEnd) {
  EXPECT_DOUBLE_EQ(LrFactor({LrShape::kLinear, 0, 4, 0}, 1), 0.75);
  EXPECT_DOUBLE_EQ(LrFactor({LrShape::kLinear, 0, 4, 0.5}, 9), 0.5);
}

TEST(LrScheduleTest, BadOptionsAreRefused) {
  EXPECT_TRUE(CheckLrSchedule({LrShape::kCosine, 5, 5, 1}).ok());
  for (const LrScheduleOptions& options :
       {LrScheduleOptions{LrShape::kCosine, 0, 0, 0}, LrScheduleOptions{LrShape::kCosine, -1, 5, 0},
        LrScheduleOptions{LrShape::kCosine, 6, 5, 0}, LrScheduleOptions{LrShape::kCosine, 1, 5, 1.5}}) {
    EXPECT_EQ(CheckLrSchedule(options).code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace vlm::train
