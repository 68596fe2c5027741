#include "coordinator/core/root_cause.h"

#include <gtest/gtest.h>

namespace vlm::coordinator {
namespace {

constexpr absl::Duration kWindow = absl::Seconds(2);

Failure At(v1::FailureClass failure, double seconds, int32_t rank, double error = 0.01) {
  return {failure, absl::Seconds(seconds), absl::Seconds(error), rank, "why"};
}

TEST(RootCause, TheEarlierFailureIsToBlameHoweverLateItIsReported) {
  RootCause cause;
  EXPECT_TRUE(cause.Add(At(v1::FAILURE_CLASS_CRASH, 10, 0), absl::Seconds(10.1), kWindow));
  EXPECT_TRUE(cause.Add(At(v1::FAILURE_CLASS_STORAGE, 9, 1), absl::Seconds(11), kWindow));
  EXPECT_EQ(cause.root()->rank, 1);
}

TEST(RootCause, ALaterFailureIsNoise) {
  RootCause cause;
  cause.Add(At(v1::FAILURE_CLASS_CRASH, 10, 0), absl::Seconds(10.1), kWindow);
  EXPECT_FALSE(cause.Add(At(v1::FAILURE_CLASS_OUT_OF_MEMORY, 10.5, 1), absl::Seconds(10.6), kWindow));
  EXPECT_EQ(cause.root()->rank, 0);
}

TEST(RootCause, ReportsAfterTheWindowChangeNothing) {
  RootCause cause;
  cause.Add(At(v1::FAILURE_CLASS_CRASH, 10, 0), absl::Seconds(10.1), kWindow);
  EXPECT_FALSE(cause.Add(At(v1::FAILURE_CLASS_STORAGE, 9, 1), absl::Seconds(12.2), kWindow));
}

TEST(RootCause, WithinTheErrorTheClassDecides) {
  RootCause cause;
  cause.Add(At(v1::FAILURE_CLASS_CRASH, 10, 0, 0.2), absl::Seconds(10.1), kWindow);
  EXPECT_TRUE(cause.Add(At(v1::FAILURE_CLASS_OUT_OF_MEMORY, 10.1, 1, 0.2), absl::Seconds(10.2), kWindow));
  EXPECT_FALSE(cause.Add(At(v1::FAILURE_CLASS_CRASH, 9.9, 2, 0.2), absl::Seconds(10.3), kWindow));
}

TEST(RootCause, ALostPeerIsNeverTheRootWhileAnotherClassIsPresent) {
  RootCause cause;
  cause.Add(At(v1::FAILURE_CLASS_PEER_LOST, 9, 0), absl::Seconds(9.1), kWindow);
  EXPECT_TRUE(cause.Add(At(v1::FAILURE_CLASS_CRASH, 10, 1), absl::Seconds(10.1), kWindow));
  EXPECT_FALSE(cause.Add(At(v1::FAILURE_CLASS_PEER_LOST, 8, 2), absl::Seconds(10.2), kWindow));
  EXPECT_EQ(cause.root()->rank, 1);
}

TEST(RootCause, ExitCodesHaveClasses) {
  EXPECT_EQ(ClassOfExit(0, 0), v1::FAILURE_CLASS_UNSPECIFIED);
  EXPECT_EQ(ClassOfExit(64, 0), v1::FAILURE_CLASS_USER_ERROR);
  EXPECT_EQ(ClassOfExit(65, 0), v1::FAILURE_CLASS_BAD_DATA);
  EXPECT_EQ(ClassOfExit(66, 0), v1::FAILURE_CLASS_DAMAGED_CHECKPOINT);
  EXPECT_EQ(ClassOfExit(69, 0), v1::FAILURE_CLASS_PEER_LOST);
  EXPECT_EQ(ClassOfExit(70, 0), v1::FAILURE_CLASS_CRASH);
  EXPECT_EQ(ClassOfExit(74, 0), v1::FAILURE_CLASS_STORAGE);
  EXPECT_EQ(ClassOfExit(78, 0), v1::FAILURE_CLASS_INCOMPATIBLE);
  EXPECT_EQ(ClassOfExit(79, 0), v1::FAILURE_CLASS_NUMERIC);
  EXPECT_EQ(ClassOfExit(3, 0), v1::FAILURE_CLASS_CRASH);
  EXPECT_EQ(ClassOfExit(0, 11), v1::FAILURE_CLASS_CRASH);
}

}  // namespace
}  // namespace vlm::coordinator
