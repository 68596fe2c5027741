#include "telemetry/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vlm::telemetry {
namespace {

TEST(LogTest, ValuesAreQuotedWhenTheyMustBe) {
  EXPECT_EQ(FormatLogLine("job submitted", {{"job", "shapes-a1"}, {"stages", "7"}}),
            "job submitted job=shapes-a1 stages=7");
  EXPECT_EQ(FormatLogLine("ended", {{"reason", "out of memory"}, {"note", ""}}),
            "ended reason=\"out of memory\" note=\"\"");
  EXPECT_EQ(FormatLogLine("ended", {{"reason", "a\n\"b\"=c"}}), "ended reason=\"a\\n\\\"b\\\"=c\"");
}

TEST(LogTest, ALineIsBounded) { EXPECT_LT(FormatLogLine("m", {{"value", std::string(1 << 20, 'x')}}).size(), 5000u); }

TEST(LogTest, LinesCarryTimeLevelAndProgramAndAreDroppedBelowTheLeastLevel) {
  testing::internal::CaptureStderr();
  StartLog("vlm-test", LogLevel::kWarning);
  Log(LogLevel::kInfo, "not written");
  Log(LogLevel::kWarning, "written", {{"key", "value"}});
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::MatchesRegex("20[0-9-]+T[0-9:.]+Z warning vlm-test written key=value\n"));
}

TEST(LogTest, LevelsAreWords) {
  EXPECT_EQ(ParseLogLevel("error").value(), LogLevel::kError);
  EXPECT_TRUE(absl::IsInvalidArgument(ParseLogLevel("loud").status()));
}

}  // namespace
}  // namespace vlm::telemetry
