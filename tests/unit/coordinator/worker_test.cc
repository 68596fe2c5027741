#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/coordinator/service_harness.h"

namespace vlm::coordinator {
namespace {

using testing::HasSubstr;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

TEST(Worker, AnotherStateFolderWithTheSameNodeIdIsRefused) {
  ServiceHarness service;
  service.Connect(service.Hello("a"));
  v1::Hello twin = service.Hello("a");
  twin.set_state_uuid("another folder");
  service.TakeEffects();
  service.Connect(twin);
  const std::vector<absl::Status> closed = service.TakeClosed();
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Text(closed[0]), HasSubstr("held by a.example"));
}

TEST(Worker, TwoWorkersOfOneHostCannotOfferOneGpu) {
  ServiceHarness service;
  v1::Hello first = service.Hello("a");
  first.mutable_devices(0)->set_uuid("GPU-1");
  service.Connect(first);
  v1::Hello second = service.Hello("b");
  second.set_boot_id(first.boot_id());
  second.mutable_devices(0)->set_uuid("GPU-1");
  service.TakeEffects();
  service.Connect(second);
  const std::vector<absl::Status> closed = service.TakeClosed();
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_THAT(Text(closed[0]), HasSubstr("GPU-1 is held by node a"));
  second.mutable_devices(0)->set_uuid("GPU-2");
  service.Connect(second);
  EXPECT_TRUE(service.TakeClosed().empty()) << "each its own";
  EXPECT_EQ(service.core().ListNodes().nodes_size(), 2);
}

TEST(Worker, ProtocolsMustMeet) {
  ServiceHarness service;
  v1::Hello hello = service.Hello("a");
  hello.set_protocol_min(7);
  hello.set_protocol_max(9);
  service.Connect(hello);
  const std::vector<absl::Status> closed = service.TakeClosed();
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(closed[0]), HasSubstr("INCOMPATIBLE_VERSION"));
}

TEST(Worker, AnEpochThatNoCoordinatorCanHaveHadIsRefused) {
  ServiceHarness service;
  const uint64_t epoch = service.core().epoch();
  v1::Hello hello = service.Hello("a");
  hello.set_epoch_seen(UINT64_MAX);
  service.Connect(hello);
  const std::vector<absl::Status> closed = service.TakeClosed();
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(service.core().epoch(), epoch) << "one more than the highest number would be 0, which every worker refuses";
}

TEST(Worker, AnOlderIncarnationIsRefused) {
  ServiceHarness service;
  service.Connect(service.Hello("a", 1, 5));
  service.TakeEffects();
  service.Connect(service.Hello("a", 1, 4));
  EXPECT_EQ(service.TakeClosed().size(), 1u);
}

TEST(Worker, ANewSessionReplacesTheOld) {
  ServiceHarness service;
  const uint64_t first = service.Connect(service.Hello("a"));
  service.TakeEffects();
  const uint64_t second = service.Connect(service.Hello("a"));
  EXPECT_EQ(service.TakeClosed().size(), 1u);
  EXPECT_EQ(service.core().NodeOf(first), "");
  EXPECT_EQ(service.core().NodeOf(second), "a");
  service.Beat(first);
  const std::vector<absl::Status> closed = service.TakeClosed();
  ASSERT_EQ(closed.size(), 1u) << "late bytes of the old stream change nothing";
}

TEST(Worker, IsLostOnlyAfterLeaseAndWindow) {
  ServiceHarness service;
  service.Connect(service.Hello("a"));
  service.Advance(absl::Seconds(14));
  EXPECT_EQ(service.core().ListNodes().nodes(0).state(), v1::NODE_STATE_LIVE) << "within the window of the start";
  service.Advance(absl::Seconds(2));
  EXPECT_EQ(service.core().ListNodes().nodes(0).state(), v1::NODE_STATE_LOST);
  const uint64_t session = service.Connect(service.Hello("a"));
  for (int i = 0; i < 10; ++i) {
    service.Advance(absl::Seconds(3));
    service.Beat(session);
  }
  EXPECT_EQ(service.core().ListNodes().nodes(0).state(), v1::NODE_STATE_LIVE);
}

TEST(Worker, AStallOfOurOwnLosesNobody) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  for (int i = 0; i < 20; ++i) {
    service.Advance(absl::Seconds(1));
    service.Beat(session);
  }
  service.Jump(absl::Seconds(30));
  service.Advance(absl::Seconds(10));
  EXPECT_EQ(service.core().ListNodes().nodes(0).state(), v1::NODE_STATE_LIVE);
  service.Advance(absl::Seconds(10));
  EXPECT_EQ(service.core().ListNodes().nodes(0).state(), v1::NODE_STATE_LOST);
}

TEST(Worker, KnownWorkersAreUnknownAfterARestartUntilTheWindowIsOver) {
  ServiceHarness service;
  service.Connect(service.Hello("a"));
  service.Restart();
  EXPECT_EQ(service.core().ListNodes().nodes(0).state(), v1::NODE_STATE_UNKNOWN);
  service.Advance(absl::Seconds(16));
  EXPECT_EQ(service.core().ListNodes().nodes(0).state(), v1::NODE_STATE_LOST);
}

class LostWorker : public testing::Test {
 protected:
  void SetUp() override {
    session_ = service_.Connect(service_.Hello("a"));
    id_ = service_.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}));
    service_.RunAttempt(id_, "train", {session_});
    attempt_ = service_.AttemptOf(id_, "train");
    service_.Advance(absl::Seconds(20));
    ASSERT_EQ(service_.StageView(id_, "train").state(), v1::STAGE_STATE_QUEUED);
  }
  ServiceHarness service_;
  uint64_t session_ = 0;
  std::string id_, attempt_;
};

TEST_F(LostWorker, IsToldToKillWhatIsNoLongerCurrentAndThenFreesTheSlot) {
  v1::Hello hello = service_.Hello("a");
  v1::HeldRank* held = hello.add_held();
  held->set_attempt_id(attempt_);
  held->set_fence(1);
  service_.TakeEffects();
  session_ = service_.Connect(hello);
  const auto sent = service_.TakeSent(session_);
  ASSERT_FALSE(sent.empty());
  EXPECT_EQ(sent[0].welcome().allowed_size(), 0);
  EXPECT_EQ(service_.core().ListNodes().nodes(0).slots_free(), 0) << "not before it is reaped";
  EXPECT_EQ(service_.StageView(id_, "train").state(), v1::STAGE_STATE_QUEUED);
  service_.Exit(session_, attempt_, 0, 0, 9);
  EXPECT_EQ(service_.StageView(id_, "train").fence(), 2u);
}

TEST_F(LostWorker, ANewIncarnationFreesItsSlotsAtOnce) {
  session_ = service_.Connect(service_.Hello("a", 1, 2));
  EXPECT_EQ(service_.StageView(id_, "train").fence(), 2u);
}

TEST_F(LostWorker, IsForgottenWithItsRowAfterALongTime) {
  service_.Advance(ServiceHarness::Options().forget_lost_after - absl::Minutes(1));
  EXPECT_EQ(service_.core().ListNodes().nodes_size(), 1);
  EXPECT_EQ(service_.rows().at("node").size(), 1u);
  service_.Advance(absl::Minutes(2));
  EXPECT_EQ(service_.core().ListNodes().nodes_size(), 0);
  EXPECT_TRUE(service_.rows().at("node").empty());
  service_.Restart();
  v1::Hello hello = service_.Hello("a");
  v1::HeldRank* held = hello.add_held();
  held->set_attempt_id(attempt_);
  held->set_fence(1);
  session_ = service_.Connect(hello);
  const auto sent = service_.TakeSent(session_);
  ASSERT_FALSE(sent.empty());
  EXPECT_EQ(sent[0].welcome().allowed_size(), 0) << "what it still holds is killed";
  EXPECT_EQ(service_.StageView(id_, "train").fence(), 2u) << "and it is a worker again";
}

TEST(Worker, IsNotForgottenWhileACurrentAttemptNamesIt) {
  CoordinatorOptions options = ServiceHarness::Options();
  options.forget_lost_after = absl::Seconds(30);
  ServiceHarness service(options);
  const uint64_t a = service.Connect(service.Hello("a"));
  const uint64_t b = service.Connect(service.Hello("b"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Pool("make", 3, {1, 2})}));
  service.RunAttempt(id, "make", {a, b});
  const std::string attempt = service.AttemptOf(id, "make");
  uint64_t counter = 0;
  const auto live = [&](int seconds) {  // b alone
    for (int i = 0; i < seconds; ++i) {
      v1::RankBeat beat;
      beat.set_attempt_id(attempt);
      beat.set_rank(1);
      beat.set_phase(v1::RANK_PHASE_STEP);
      beat.set_counter(++counter);
      service.Beat(b, {beat});
      service.Advance(absl::Seconds(1));
    }
  };
  live(90);
  EXPECT_EQ(service.StageView(id, "make").fence(), 1u);
  EXPECT_EQ(service.core().ListNodes().nodes_size(), 2);
  ASSERT_TRUE(service.Cancel(id).ok());
  service.Exit(b, attempt, 1, 0, 15);
  live(2);
  EXPECT_EQ(service.core().ListNodes().nodes_size(), 1);
}

TEST(WorkerRestart, EndsItsRanksWithoutWaitingForTheLease) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}));
  service.RunAttempt(id, "train", {session});
  service.Connect(service.Hello("a", 1, 2));
  EXPECT_EQ(service.core().Count().restarts["worker_lost"], 1u);
  service.Advance(absl::Seconds(6));
  EXPECT_EQ(service.StageView(id, "train").fence(), 2u);
}

TEST(WorkerRestart, AStoredResultTellsMoreThanTheRestart) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}));
  service.RunAttempt(id, "train", {session});
  v1::Hello hello = service.Hello("a", 1, 2);
  v1::RankResult* result = hello.add_unacknowledged();
  result->set_attempt_id(service.AttemptOf(id, "train"));
  result->set_fence(1);
  service.TakeEffects();
  const uint64_t again = service.Connect(hello);
  EXPECT_EQ(service.StageView(id, "train").state(), v1::STAGE_STATE_PUBLISHING) << "exit 0 was stored";
  const auto sent = service.TakeSent(again);
  ASSERT_GE(sent.size(), 2u);
  EXPECT_TRUE(sent[0].has_welcome()) << "Welcome is first";
  EXPECT_TRUE(sent[1].has_result()) << "then the result is acknowledged";
}

TEST(WorkerRestart, AnEpochThatWorkersHaveSeenIsNeverUsedAgain) {
  ServiceHarness service;
  v1::Hello hello = service.Hello("a");
  hello.set_epoch_seen(41);
  const uint64_t session = service.Connect(hello);
  EXPECT_EQ(service.core().epoch(), 42u);
  EXPECT_EQ(service.TakeSent(session)[0].coordinator_epoch(), 42u);
  service.Restart();
  EXPECT_EQ(service.core().epoch(), 43u);
}

TEST(Worker, AnAssignmentThatGotLostIsSentAgain) {
  ServiceHarness service;
  service.Connect(service.Hello("a"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}));
  const v1::Stage stage = service.StageView(id, "train");
  service.Open(stage.stage_uid(), 1);
  service.TakeEffects();
  const uint64_t again = service.Connect(service.Hello("a"));
  bool assigned = false;
  for (const auto& message : service.TakeSent(again)) assigned |= message.has_assign();
  EXPECT_TRUE(assigned);
  EXPECT_EQ(service.StageView(id, "train").fence(), 1u);
}

TEST(Worker, ResultsAreDeduplicated) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}));
  service.RunAttempt(id, "train", {session});
  const std::string first = service.AttemptOf(id, "train");
  service.Exit(session, first, 0, 70);
  service.Exit(session, first, 0, 70);
  service.Exit(session, first, 0, 0);
  EXPECT_EQ(service.core().Count().restarts["crash"], 1u);
  EXPECT_EQ(service.StageView(id, "train").fence(), 2u);
  EXPECT_EQ(service.core().Count().slots_taken, 1);
}

TEST(Worker, BeatsOfStrangersAreStopped) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  service.TakeEffects();
  v1::RankBeat beat;
  beat.set_attempt_id("00112233445566778899aabbccddeeff/7");
  service.Beat(session, {beat});
  const auto sent = service.TakeSent(session);
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_EQ(sent[0].stop().cause(), v1::STOP_CAUSE_SUPERSEDED);
  EXPECT_EQ(sent[0].stop().fence(), 7u);
  EXPECT_TRUE(sent[1].has_beat());
}

TEST(Worker, OneThatDoesNotSeeTheArtifactsGetsNoRank) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}));
  const v1::Stage first = service.StageView(id, "train");
  service.Open(first.stage_uid(), 1, 100, true);
  service.Publish(first.stage_uid(), 1);
  v1::SessionRequest message;
  message.mutable_root_checked()->set_root("/artifacts");
  message.mutable_root_checked()->set_error("no such folder");
  service.Say(session, message);
  spec::Job other = ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}, "other");
  other.stages[0].seed = 9;
  std::get<spec::TrainingSettings>(other.stages[0].settings).train.length.steps = 7;
  const std::string waiting = service.Submit(other, "2");
  EXPECT_EQ(service.StageView(waiting, "train").state(), v1::STAGE_STATE_QUEUED);
  EXPECT_THAT(service.View(waiting).reason(), HasSubstr("a: does not see /artifacts: no such folder"));
  EXPECT_THAT(service.View(waiting).next_action(), HasSubstr("mount the artifacts folder"));
  for (int i = 0; i < 32; ++i) {
    service.Advance(absl::Seconds(1));
    service.Beat(session);
  }
  EXPECT_EQ(service.StageView(waiting, "train").state(), v1::STAGE_STATE_ACTIVE) << "asked again, and seen now";
}

TEST(Worker, OneThatDoesNotAnswerTheRootCheckIsNotWaitedForForEver) {
  ServiceHarness service;
  service.AnswerRootChecks(false);
  const uint64_t session = service.Connect(service.Hello("a"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}));
  EXPECT_THAT(service.View(id).reason(), HasSubstr("have yet to show that they see the artifacts folder"));
  for (int i = 0; i < 20; ++i) {
    service.Advance(absl::Seconds(1));
    service.Beat(session);
  }
  EXPECT_THAT(service.View(id).reason(), HasSubstr("a: does not say whether it sees /artifacts"));
  v1::SessionRequest late;
  late.mutable_root_checked()->set_root("/artifacts");
  service.Say(session, late);
  EXPECT_EQ(service.StageView(id, "train").state(), v1::STAGE_STATE_ACTIVE);
}

// A pool's rank that hangs is stopped alone; the Stop may be lost with the session.
TEST(Worker, IsToldAgainToStopARankThatHangs) {
  ServiceHarness service;
  const uint64_t a = service.Connect(service.Hello("a")), b = service.Connect(service.Hello("b"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Pool("make", 3, {1, 2})}));
  service.RunAttempt(id, "make", {a, b});
  const std::string attempt = service.AttemptOf(id, "make");
  v1::RankBeat beat;
  beat.set_attempt_id(attempt);
  beat.set_rank(1);
  beat.set_phase(v1::RANK_PHASE_STEP);
  service.TakeSent(a);
  const auto stopped = [&service](uint64_t session) {
    std::vector<int32_t> ranks;
    for (const v1::SessionResponse& message : service.TakeSent(session)) {
      ranks.insert(ranks.end(), message.stop().ranks().begin(), message.stop().ranks().end());
    }
    return ranks;
  };
  for (uint64_t i = 1; i <= 15; ++i) {
    beat.set_counter(i);
    service.Advance(absl::Seconds(1));
    service.Beat(a);  // without a word of its rank
    service.Beat(b, {beat});
  }
  EXPECT_EQ(stopped(a), std::vector<int32_t>{0});
  EXPECT_TRUE(stopped(b).empty());
  v1::Hello hello = service.Hello("a");
  v1::HeldRank* held = hello.add_held();
  held->set_attempt_id(attempt);
  held->set_fence(1);
  held->set_phase(v1::RANK_PHASE_STEP);
  const uint64_t again = service.Connect(hello);
  EXPECT_EQ(stopped(again), std::vector<int32_t>{0});
  service.Exit(again, attempt, 0, 0, 15);
  EXPECT_EQ(service.core().Count().restarts["hang"], 1u);
  EXPECT_EQ(service.StageView(id, "make").fence(), 1u) << "the other rank goes on";
}

TEST(Worker, CallsOfAnAttemptComeFromItsWorker) {
  ServiceHarness service;
  const uint64_t session = service.Connect(service.Hello("a"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})}));
  service.RunAttempt(id, "train", {session});
  const std::string uid = service.StageView(id, "train").stage_uid();
  EXPECT_TRUE(service.core().CheckWriter(uid, 1, "a").ok());
  EXPECT_EQ(service.core().CheckWriter(uid, 1, "b").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(service.core().CheckWriter(uid, 2, "a").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(service.core().CheckWriter("nonsense", 1, "a").code(), absl::StatusCode::kNotFound);
  service.Exit(session, service.AttemptOf(id, "train"), 0, 0);
  EXPECT_TRUE(service.core().CheckWriter(uid, 1, "a").ok()) << "a part that its worker had kept";
}

}  // namespace
}  // namespace vlm::coordinator
