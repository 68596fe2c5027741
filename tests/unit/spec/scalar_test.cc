#include "spec/scalar.h"

#include <gtest/gtest.h>

#include <string>

namespace vlm::spec {
namespace {

TEST(Scalar, CountsKeepEveryDigit) {
  EXPECT_EQ(ReadCount("524288"), 524288);
  EXPECT_EQ(ReadCount("11.2B"), 11'200'000'000);
  EXPECT_EQ(ReadCount("1.234K"), 1234);
  EXPECT_EQ(ReadCount("-2M"), -2'000'000);
  EXPECT_EQ(ReadCount("9T"), 9'000'000'000'000);
  for (const char* bad :
       {"", "K", "1.2345K", "1.K", ".5K", "1k", "1KB", "1e3", "9999999999T", "1 K", "+1", "1.2a4K", "-K"}) {
    EXPECT_EQ(ReadCount(bad), std::nullopt) << bad;
  }
}

TEST(Scalar, NumbersAreFiniteDecimals) {
  EXPECT_EQ(ReadNumber("1e-5"), 1e-5);
  EXPECT_EQ(ReadNumber("-.5"), -0.5);
  EXPECT_EQ(ReadNumber("3"), 3.0);
  for (const char* bad : {"", "inf", "-inf", "nan", "0x10", "1e999", "1,5", "1.0f", "+1", "-", "1_000",
                          "1234567890123456789012345678901234567890123456789012345678901234.5"}) {
    EXPECT_EQ(ReadNumber(bad), std::nullopt) << bad;
  }
}

TEST(Scalar, StepsTakeTheirWord) {
  EXPECT_EQ(ReadSteps("500 steps"), 500);
  EXPECT_EQ(ReadSteps("1 step"), 1);
  EXPECT_EQ(ReadSteps("5K steps"), 5000);
  EXPECT_EQ(ReadSteps("7"), 7);
  for (const char* bad : {"steps", " steps", "5 minutes", "5 steps steps", "500steps"}) {
    EXPECT_EQ(ReadSteps(bad), std::nullopt) << bad;
  }
}

TEST(Scalar, DurationsAreSeconds) {
  EXPECT_EQ(ReadDurationSeconds("5s"), 5.0);
  EXPECT_EQ(ReadDurationSeconds("1m30s"), 90.0);
  EXPECT_EQ(ReadDurationSeconds("250ms"), 0.25);
  EXPECT_EQ(ReadDurationSeconds("0s"), 0.0);
  for (const char* bad : {"", "5", "-5s", "inf", "5 s", "5d", "5us", "5.", "99999999999999999h",
                          "00000000000000000000000000000000000000000000000000000000000000005s"}) {
    EXPECT_EQ(ReadDurationSeconds(bad), std::nullopt) << bad;
  }
}

TEST(Scalar, TrainableSelectors) {
  for (const char* good : {"all", "llm", "vision", "connector", "llm.blocks[-4:]", "vision.blocks[0:2]",
                           "llm.blocks[3]", "llm.blocks[:]"}) {
    EXPECT_TRUE(IsTrainableSelector(good)) << good;
  }
  for (const char* bad : {"", "llm.blocks", "llm.blocks[]", "connector.blocks[1]", "llm.block[1]", "llm.blocks[a:]",
                          "llm.blocks[-]", "llmx", "audio", "llm.blocks[1", "llm.blocks[1:a]", "llm.blocks[1:2:3]",
                          "vision.blocks[1234567]", "llm.rows[1]"}) {
    EXPECT_FALSE(IsTrainableSelector(bad)) << bad;
  }
}

TEST(Scalar, NamesBeginWithALetterOrDigitAndAreNoPaths) {
  for (const std::string& good : {std::string("a"), std::string("7"), std::string("A-b_c.9"), std::string(63, 'z')}) {
    EXPECT_TRUE(IsName(good)) << good;
  }
  for (const std::string& bad : {std::string(), std::string(64, 'z'), std::string("-a"), std::string(".a"),
                                 std::string("_a"), std::string("a/b"), std::string("a b"), std::string("\xc3\xa4")}) {
    EXPECT_FALSE(IsName(bad)) << bad;
  }
}

}  // namespace
}  // namespace vlm::spec
