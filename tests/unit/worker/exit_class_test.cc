#include "worker/core/exit_class.h"

#include <gtest/gtest.h>

#include <csignal>

namespace vlm::worker {
namespace {

TEST(ExitClassTest, ExitCodesHaveTheirClasses) {
  EXPECT_EQ(Classify({.exit_code = 0}), v1::FAILURE_CLASS_UNSPECIFIED);
  EXPECT_EQ(Classify({.exit_code = 64}), v1::FAILURE_CLASS_USER_ERROR);
  EXPECT_EQ(Classify({.exit_code = 65}), v1::FAILURE_CLASS_BAD_DATA);
  EXPECT_EQ(Classify({.exit_code = 66}), v1::FAILURE_CLASS_DAMAGED_CHECKPOINT);
  EXPECT_EQ(Classify({.exit_code = 69}), v1::FAILURE_CLASS_PEER_LOST);
  EXPECT_EQ(Classify({.exit_code = 70}), v1::FAILURE_CLASS_CRASH);
  EXPECT_EQ(Classify({.exit_code = 74}), v1::FAILURE_CLASS_STORAGE);
  EXPECT_EQ(Classify({.exit_code = 78}), v1::FAILURE_CLASS_INCOMPATIBLE);
  EXPECT_EQ(Classify({.exit_code = 79}), v1::FAILURE_CLASS_NUMERIC);
  EXPECT_EQ(Classify({.exit_code = 80}), v1::FAILURE_CLASS_OUT_OF_MEMORY);
  EXPECT_EQ(Classify({.exit_code = 1}), v1::FAILURE_CLASS_CRASH);
}

TEST(ExitClassTest, SignalsAreCrashesUnlessTheMemoryLimitSentThem) {
  EXPECT_EQ(Classify({.signal = SIGSEGV}), v1::FAILURE_CLASS_CRASH);
  EXPECT_EQ(Classify({.signal = SIGKILL}), v1::FAILURE_CLASS_CRASH);
  EXPECT_EQ(Classify({.signal = SIGKILL, .oom_killed = true}), v1::FAILURE_CLASS_OUT_OF_MEMORY);
  EXPECT_EQ(Classify({.signal = SIGSEGV, .oom_killed = true}), v1::FAILURE_CLASS_CRASH);
}

TEST(ExitClassTest, OurOwnSignalsCarryOurReason) {
  EXPECT_EQ(Classify({.signal = SIGKILL, .oom_killed = true, .ending = Ending::kFrozen}), v1::FAILURE_CLASS_HANG);
  EXPECT_EQ(Classify({.signal = SIGKILL, .ending = Ending::kUnattached}), v1::FAILURE_CLASS_START_TIMEOUT);
  EXPECT_EQ(Classify({.signal = SIGTERM, .ending = Ending::kOrphaned}), v1::FAILURE_CLASS_WORKER_LOST);
  EXPECT_EQ(Classify({.signal = SIGTERM, .ending = Ending::kOrdered}), v1::FAILURE_CLASS_PEER_LOST);
  EXPECT_EQ(Classify({.signal = SIGSEGV, .ending = Ending::kOrdered}), v1::FAILURE_CLASS_CRASH);
}

TEST(ExitClassTest, ARankThatNamesItsOwnReasonKeepsItWhileBeingStopped) {
  EXPECT_EQ(Classify({.exit_code = 79, .ending = Ending::kOrdered}), v1::FAILURE_CLASS_NUMERIC);
  EXPECT_EQ(Classify({.exit_code = 70, .ending = Ending::kOrdered}), v1::FAILURE_CLASS_PEER_LOST);
  EXPECT_EQ(Classify({.exit_code = 0, .ending = Ending::kOrdered}), v1::FAILURE_CLASS_UNSPECIFIED);
}

}  // namespace
}  // namespace vlm::worker
