// Compiled with traps on conversions of floats that no integer can hold.
#include "model/ops/exp.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace vlm::model::ops {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(ExpTest, IsWithinItsErrorOnTheWholeRange) {
  double worst = 0;
  constexpr int kPoints = 1'750'000;
  for (int i = 0; i <= kPoints; ++i) {
    const float x = -87.0f + 175.0f * static_cast<float>(i) / kPoints;
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(Exp(x) - exact) / exact);
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
}

TEST(ExpTest, OutsideItsRangeItHasTheValueOfTheNearerEnd) {
  for (const float x : {-87.0f, -88.0f, -104.0f, -1e30f, -kInfinity}) EXPECT_EQ(Exp(x), Exp(-87.0f)) << x;
  for (const float x : {88.0f, 89.0f, 1e30f, kInfinity}) EXPECT_EQ(Exp(x), Exp(88.0f)) << x;
  EXPECT_GT(Exp(-87.0f), 0.0f);
  EXPECT_LT(Exp(88.0f), kInfinity);
}

TEST(ExpTest, NanOfAnyBitsStaysNan) {
  for (const uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7fffffffu, 0xffffffffu, 0x7fc00001u, 0x7f800001u}) {
    volatile float nan = std::bit_cast<float>(bits);  // not known to the compiler
    EXPECT_TRUE(std::isnan(Exp(nan))) << std::hex << bits;
  }
}

// Loops over it are vectorized, and a lane that is NaN leaves its neighbours alone.
TEST(ExpTest, ALoopGivesWhatSingleCallsGive) {
  std::vector<float> x(1003), y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = i % 7 == 3 ? std::numeric_limits<float>::quiet_NaN() : 0.2f * static_cast<float>(i) - 100.0f;
  }
  for (size_t i = 0; i < x.size(); ++i) y[i] = Exp(x[i]);
  for (size_t i = 0; i < x.size(); ++i) {
    volatile float alone = x[i];
    const float expected = Exp(alone);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(y[i])) << i;
    } else {
      EXPECT_EQ(y[i], expected) << i;
    }
  }
}

}  // namespace
}  // namespace vlm::model::ops
