#include "coordinator/core/retry_policy.h"

#include <gtest/gtest.h>

namespace vlm::coordinator {
namespace {

v1::JobRecord Job() {
  v1::JobRecord job;
  job.set_no_progress_max(3);
  v1::RetryRecord* crash = job.add_retry();
  crash->set_failure(v1::FAILURE_CLASS_CRASH);
  crash->set_limited(true);
  crash->set_limit(2);
  crash->mutable_base()->set_seconds(5);
  crash->set_factor(2);
  crash->mutable_max()->set_seconds(8);
  v1::RetryRecord* lost = job.add_retry();
  lost->set_failure(v1::FAILURE_CLASS_WORKER_LOST);
  v1::RetryRecord* user = job.add_retry();
  user->set_failure(v1::FAILURE_CLASS_USER_ERROR);
  user->set_limited(true);
  v1::RetryRecord* hang = job.add_retry();
  hang->set_failure(v1::FAILURE_CLASS_HANG);
  return job;
}

TEST(RetryPolicy, WaitsGrowUpToTheirMaximum) {
  v1::StageRecord stage;
  EXPECT_EQ(ChargeFailure(Job(), v1::FAILURE_CLASS_CRASH, &stage).wait, absl::Seconds(5));
  EXPECT_EQ(ChargeFailure(Job(), v1::FAILURE_CLASS_CRASH, &stage).wait, absl::Seconds(8));
}

TEST(RetryPolicy, TheLimitOfAClassEndsTheRetries) {
  v1::StageRecord stage;
  EXPECT_TRUE(ChargeFailure(Job(), v1::FAILURE_CLASS_CRASH, &stage).retry);
  EXPECT_TRUE(ChargeFailure(Job(), v1::FAILURE_CLASS_CRASH, &stage).retry);
  const RetryDecision third = ChargeFailure(Job(), v1::FAILURE_CLASS_CRASH, &stage);
  EXPECT_FALSE(third.retry);
  EXPECT_EQ(third.reason, "all 2 retries after crash are spent");
}

TEST(RetryPolicy, AUsersErrorIsNotRetried) {
  v1::StageRecord stage;
  const RetryDecision decision = ChargeFailure(Job(), v1::FAILURE_CLASS_USER_ERROR, &stage);
  EXPECT_FALSE(decision.retry);
  EXPECT_EQ(decision.reason, "no retry after user_error");
}

TEST(RetryPolicy, LostWorkersAreNeverTheStagesFault) {
  v1::StageRecord stage;
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(ChargeFailure(Job(), v1::FAILURE_CLASS_WORKER_LOST, &stage).retry);
  EXPECT_EQ(stage.no_progress(), 0);
}

TEST(RetryPolicy, TooManyRestartsWithoutACommitEndTheRetries) {
  v1::StageRecord stage;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(ChargeFailure(Job(), v1::FAILURE_CLASS_HANG, &stage).retry);
  const RetryDecision decision = ChargeFailure(Job(), v1::FAILURE_CLASS_HANG, &stage);
  EXPECT_FALSE(decision.retry);
  EXPECT_EQ(decision.reason, "nothing was committed in 4 attempts in a row");
}

TEST(RetryPolicy, CommittedProgressFillsEveryBudget) {
  v1::StageRecord stage;
  ChargeFailure(Job(), v1::FAILURE_CLASS_CRASH, &stage);
  ChargeFailure(Job(), v1::FAILURE_CLASS_CRASH, &stage);
  stage.set_committed_since(true);
  const RetryDecision decision = ChargeFailure(Job(), v1::FAILURE_CLASS_CRASH, &stage);
  EXPECT_TRUE(decision.retry);
  EXPECT_EQ(decision.wait, absl::Seconds(5));
  EXPECT_FALSE(stage.committed_since()) << "the next budget needs new progress";
  EXPECT_EQ(stage.no_progress(), 1);
}

}  // namespace
}  // namespace vlm::coordinator
