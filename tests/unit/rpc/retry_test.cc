#include "rpc/retry.h"

#include <gtest/gtest.h>

#include "absl/strings/cord.h"

namespace vlm::rpc {
namespace {

TEST(BackoffTest, GrowsToItsBoundAndStartsOverAfterReset) {
  Backoff backoff(absl::Milliseconds(10), absl::Milliseconds(100), RngKey{1});
  for (int i = 0; i < 20; ++i) EXPECT_LE(backoff.Next(), absl::Milliseconds(100));
  EXPECT_GE(backoff.Next(), absl::Milliseconds(50));
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Milliseconds(10));
}

TEST(BackoffTest, ClientsWithOtherKeysWaitDifferently) {
  Backoff first(absl::Seconds(1), absl::Seconds(1), RngKey{1});
  Backoff second(absl::Seconds(1), absl::Seconds(1), RngKey{2});
  EXPECT_NE(first.Next(), second.Next());
}

TEST(RetryDelayTest, TravelsBesideAStatus) {
  const absl::Status busy = WithRetryDelay(absl::ResourceExhaustedError("busy"), absl::Milliseconds(1250));
  EXPECT_TRUE(absl::IsResourceExhausted(busy));
  EXPECT_EQ(RetryDelayOf(busy), absl::Milliseconds(1250));
}

TEST(RetryDelayTest, AStatusWithoutOneHasNone) {
  EXPECT_EQ(RetryDelayOf(absl::OkStatus()), std::nullopt);
  EXPECT_EQ(RetryDelayOf(absl::ResourceExhaustedError("two steps are open")), std::nullopt);
  absl::Status garbled = absl::ResourceExhaustedError("busy");
  garbled.SetPayload(kRetryInfoUrl, absl::Cord("\xff"));
  EXPECT_EQ(RetryDelayOf(garbled), std::nullopt);
  EXPECT_EQ(RetryDelayOf(WithRetryDelay(absl::ResourceExhaustedError("busy"), -absl::Seconds(1))),
            absl::ZeroDuration());
}

}  // namespace
}  // namespace vlm::rpc
