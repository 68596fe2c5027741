#include "rpc/retry.h"

#include <gtest/gtest.h>

#include <vector>

#include "rpc/memory_transport.h"
#include "tests/unit/rpc/virtual_executor.h"

namespace vlm::rpc {
namespace {

// Answers UNAVAILABLE `failures` times, then OK; remembers when it was called.
struct Flaky {
  explicit Flaky(int failures, absl::Status failure = absl::UnavailableError("away")) {
    ServiceRegistry registry;
    registry.unary["/t.T/Do"] = [this, failures, failure](const CallContext&, std::string request, Respond respond) {
      calls.push_back(executor.now());
      if (static_cast<int>(calls.size()) <= failures) {
        respond(failure);
      } else {
        respond(request);
      }
    };
    transport.Serve(std::move(registry));
  }
  absl::StatusOr<std::string> Run(RetryOptions options) {
    absl::StatusOr<std::string> answer = absl::UnknownError("never answered");
    int answers = 0;
    CallWithRetry(channel.get(), &executor, "/t.T/Do", "payload", {}, options, RngKey{7},
                  [&](absl::StatusOr<std::string> value) {
                    answer = std::move(value);
                    ++answers;
                  });
    executor.RunUntil(absl::Hours(1));
    EXPECT_EQ(answers, 1);
    return answer;
  }
  VirtualExecutor executor;
  MemoryTransport transport{&executor};
  std::unique_ptr<Channel> channel = transport.Connect();
  std::vector<absl::Duration> calls;
};

TEST(RetryTest, CallsAgainUntilTheServiceIsBack) {
  Flaky flaky(3);
  EXPECT_EQ(flaky.Run({}).value(), "payload");
  ASSERT_EQ(flaky.calls.size(), 4u);
  for (int i = 1; i < 4; ++i) {
    const absl::Duration waited = flaky.calls[i] - flaky.calls[i - 1];
    const absl::Duration bound = absl::Milliseconds(50) * (1 << (i - 1));
    EXPECT_GE(waited, bound / 2);
    EXPECT_LE(waited, bound);
  }
}

TEST(RetryTest, GivesUpAfterItsAttempts) {
  Flaky flaky(100);
  EXPECT_TRUE(absl::IsUnavailable(flaky.Run({.attempts_max = 4}).status()));
  EXPECT_EQ(flaky.calls.size(), 4u);
}

TEST(RetryTest, OtherErrorsAreAnswersNotReasonsToRetry) {
  Flaky flaky(1, absl::FailedPreconditionError("old fence"));
  EXPECT_TRUE(absl::IsFailedPrecondition(flaky.Run({}).status()));
  EXPECT_EQ(flaky.calls.size(), 1u);
}

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

}  // namespace
}  // namespace vlm::rpc
