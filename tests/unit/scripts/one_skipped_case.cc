// A binary of tests as the others are, of which one case cannot run: for show_outcome_test.py.
#include <gtest/gtest.h>

namespace {

TEST(OneSkippedCase, Runs) { EXPECT_EQ(1 + 1, 2); }

TEST(OneSkippedCase, CannotRun) { GTEST_SKIP() << "no second moon may be mounted here"; }

}  // namespace
