#include "worker/call_relay.h"

#include <gtest/gtest.h>

#include "base/file_system.h"
#include "rpc/memory_transport.h"
#include "rpc/retry.h"
#include "tests/unit/rpc/virtual_executor.h"

namespace vlm::worker {
namespace {

class VirtualClock final : public Clock {
 public:
  explicit VirtualClock(const rpc::VirtualExecutor* executor) : executor_(executor) {}
  absl::Duration Monotonic() const override { return executor_->now(); }
  absl::Time Wall() const override { return absl::UnixEpoch() + executor_->now(); }

 private:
  const rpc::VirtualExecutor* const executor_;
};

class CallRelayTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/relay_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), path_).ok());
    Restart();
  }
  void Restart() {
    relay_.reset();
    state_.reset();
    state_ = StateDir::Open(path_, "host").value();
    relay_ = std::make_unique<CallRelay>(
        CallRelay::Parts{.channel = channel_.get(),
                         .executor = executor_,
                         .disk = executor_,
                         .state = state_.get(),
                         .metrics = &metrics_,
                         .clock = &clock_,
                         .jitter = RngKey{1},
                         .unkept = [this](const absl::Status& why) { unkept_.push_back(why); }});
  }
  void ServeEcho() {
    rpc::ServiceRegistry registry;
    registry.unary["/s.S/Do"] = [this](const rpc::CallContext&, std::string request, rpc::Respond respond) {
      requests_.push_back(request);
      if (!refusal_.ok()) {
        respond(refusal_);
      } else {
        respond("re: " + request);
      }
    };
    transport_.Serve(std::move(registry));
  }
  rpc::Channel::Done Keep() {
    return [this](absl::StatusOr<std::string> answer) { answers_.push_back(std::move(answer)); };
  }
  void Run(absl::Duration time) { executor_->RunUntil(executor_->now() + time); }

  std::string path_;
  std::shared_ptr<rpc::VirtualExecutor> executor_ = std::make_shared<rpc::VirtualExecutor>();
  VirtualClock clock_{executor_.get()};
  rpc::MemoryTransport transport_{executor_.get()};
  std::unique_ptr<rpc::Channel> channel_ = transport_.Connect();
  NoWorkerMetrics metrics_;
  std::unique_ptr<StateDir> state_;
  std::unique_ptr<CallRelay> relay_;
  std::vector<std::string> requests_;
  std::vector<absl::StatusOr<std::string>> answers_;
  std::vector<absl::Status> unkept_;
  absl::Status refusal_;
};

TEST_F(CallRelayTest, ForwardsAndWaitsForAServiceThatIsAway) {
  relay_->Forward("/s.S/Do", "x", absl::Seconds(60), Keep());
  Run(absl::Seconds(20));
  EXPECT_TRUE(answers_.empty());
  EXPECT_EQ(relay_->waiting(), 1u);
  ServeEcho();
  Run(absl::Seconds(1));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].value(), "re: x");
  EXPECT_EQ(requests_.size(), 1u);
  EXPECT_EQ(relay_->waiting(), 0u);
}

TEST_F(CallRelayTest, AForwardedCallEndsAtItsDeadline) {
  relay_->Forward("/s.S/Do", "x", absl::Seconds(5), Keep());
  Run(absl::Seconds(6));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(answers_[0].status()));
  ServeEcho();
  Run(absl::Seconds(6));
  EXPECT_TRUE(requests_.empty());
}

TEST_F(CallRelayTest, ACallThatIsBetterLeftThanWaitedForEndsWhenTheServiceStaysAway) {
  relay_->Forward("/s.S/Do", "x", absl::Minutes(10), Keep(), absl::Seconds(1));
  Run(absl::Seconds(0.9));
  EXPECT_TRUE(answers_.empty());
  Run(absl::Seconds(1));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(answers_[0].status())) << answers_[0].status();
  relay_->Forward("/s.S/Do", "y", absl::Minutes(10), Keep(), absl::ZeroDuration());
  ServeEcho();
  Run(absl::Seconds(1));
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(relay_->waiting(), 0u);
  relay_->Forward("/s.S/Do", "z", absl::Minutes(10), Keep(), absl::ZeroDuration());
  Run(absl::Seconds(1));
  ASSERT_EQ(answers_.size(), 3u);
  EXPECT_EQ(answers_[2].value(), "re: z") << "a service that is there is asked once, whatever the patience";
}

TEST_F(CallRelayTest, ARefusalIsAnAnswer) {
  ServeEcho();
  refusal_ = absl::FailedPreconditionError("the fence moved");
  relay_->Forward("/s.S/Do", "x", absl::Seconds(5), Keep());
  Run(absl::Seconds(10));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(absl::IsFailedPrecondition(answers_[0].status()));
  EXPECT_EQ(requests_.size(), 1u);
}

TEST_F(CallRelayTest, AServiceThatIsBusyIsAskedAgainAfterTheDelayItNames) {
  ServeEcho();
  refusal_ = rpc::WithRetryDelay(absl::ResourceExhaustedError("too many calls"), absl::Seconds(2));
  relay_->Forward("/s.S/Do", "x", absl::Seconds(60), Keep());
  relay_->Deliver({.name = "p", .method = "/s.S/Do", .request = "part"}, absl::Seconds(60), Keep());
  Run(absl::Seconds(1.9));
  EXPECT_EQ(requests_.size(), 2u) << "each call once, none before the delay is over";
  EXPECT_TRUE(answers_.empty()) << "a full queue is no answer";
  refusal_ = absl::OkStatus();
  Run(absl::Seconds(1));
  ASSERT_EQ(answers_.size(), 2u);
  for (const auto& answer : answers_) EXPECT_TRUE(answer.ok()) << answer.status();
}

TEST_F(CallRelayTest, ALimitOfTheServiceIsAnAnswer) {
  ServeEcho();
  refusal_ = absl::ResourceExhaustedError("two steps are open");
  relay_->Forward("/s.S/Do", "x", absl::Seconds(60), Keep());
  Run(absl::Seconds(5));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(absl::IsResourceExhausted(answers_[0].status()));
}

TEST_F(CallRelayTest, AStoredCallOutlivesItsCallerAndTheWorker) {
  relay_->Deliver({.name = "p", .method = "/s.S/Do", .request = "part"}, absl::Seconds(2), Keep());
  Run(absl::Seconds(3));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(answers_[0].status()));
  Restart();
  const auto calls = state_->LoadCalls().value();
  ASSERT_EQ(calls.size(), 1u);
  relay_->Resume(calls);
  ServeEcho();
  Run(absl::Seconds(2));
  EXPECT_EQ(requests_, std::vector<std::string>{"part"});
  EXPECT_TRUE(state_->LoadCalls().value().empty());
  EXPECT_EQ(relay_->waiting(), 0u);
}

// A worker whose disk is full keeps the call in memory: its rank must not lose a save for that.
TEST_F(CallRelayTest, ACallThatCannotBeKeptOnDiskIsMadeAllTheSame) {
  ASSERT_TRUE(RemoveTree(PosixFileSystem(), path_ + "/calls").ok());  // no row can be written from here on
  relay_->Deliver({.name = "p", .method = "/s.S/Do", .request = "part"}, absl::Minutes(10), Keep());
  Run(absl::Seconds(20));
  EXPECT_TRUE(answers_.empty()) << "the service is away, and nothing else has an answer";
  EXPECT_EQ(unkept_.size(), 1u);
  ServeEcho();
  Run(absl::Seconds(1));
  ASSERT_EQ(answers_.size(), 1u);
  ASSERT_TRUE(answers_[0].ok()) << answers_[0].status();
  EXPECT_EQ(*answers_[0], "re: part");
  EXPECT_EQ(relay_->waiting(), 0u);
}

TEST_F(CallRelayTest, EqualStoredCallsAreOneAndAllCallersAreAnswered) {
  const StoredCall call{.name = "p", .method = "/s.S/Do", .request = "part"};
  relay_->Deliver(call, absl::Seconds(60), Keep());
  relay_->Deliver(call, absl::Seconds(60), Keep());
  StoredCall other = call;
  other.request = "other";
  relay_->Deliver(other, absl::Seconds(60), Keep());
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(absl::IsFailedPrecondition(answers_[0].status()));
  ServeEcho();
  Run(absl::Seconds(2));
  ASSERT_EQ(answers_.size(), 3u);
  EXPECT_EQ(answers_[1].value(), "re: part");
  EXPECT_EQ(answers_[2].value(), "re: part");
  EXPECT_EQ(requests_.size(), 1u);
}

TEST_F(CallRelayTest, ARefusedStoredCallIsForgotten) {
  ServeEcho();
  refusal_ = absl::FailedPreconditionError("the fence moved");
  relay_->Deliver({.name = "p", .method = "/s.S/Do", .request = "part"}, absl::InfiniteDuration(), Keep());
  Run(absl::Seconds(2));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(absl::IsFailedPrecondition(answers_[0].status()));
  EXPECT_TRUE(state_->LoadCalls().value().empty());
}

TEST_F(CallRelayTest, TheNumberOfWaitingCallsIsBounded) {
  for (size_t i = 0; i < CallRelay::kWaitingMax; ++i) relay_->Forward("/s.S/Do", "x", absl::Hours(1), [](auto) {});
  relay_->Forward("/s.S/Do", "x", absl::Hours(1), Keep());
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(absl::IsResourceExhausted(answers_[0].status()));
}

}  // namespace
}  // namespace vlm::worker
