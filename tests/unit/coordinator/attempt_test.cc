#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/coordinator/service_harness.h"

namespace vlm::coordinator {
namespace {

using testing::HasSubstr;

class GangAttempt : public testing::Test {
 protected:
  void SetUp() override {
    a_ = service_.Connect(service_.Hello("a"));
    b_ = service_.Connect(service_.Hello("b"));
    id_ = service_.Submit(ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 2})}));
  }
  v1::Stage Stage() { return service_.StageView(id_, "train"); }
  std::string Id() { return service_.AttemptOf(id_, "train"); }
  void Run() { service_.RunAttempt(id_, "train", {a_, b_}); }
  // One second with beats of both workers; `ranks` say what they say.
  void Second(const std::vector<v1::RankBeat>& on_a = {}, const std::vector<v1::RankBeat>& on_b = {}) {
    service_.Advance(absl::Seconds(1));
    service_.Beat(a_, on_a);
    service_.Beat(b_, on_b);
  }
  v1::RankBeat Beat(int32_t rank, uint64_t step, uint64_t collective) {
    v1::RankBeat beat;
    beat.set_attempt_id(Id());
    beat.set_rank(rank);
    beat.set_phase(v1::RANK_PHASE_STEP);
    beat.set_counter(step);
    beat.set_step(step);
    beat.set_collective(collective);
    return beat;
  }

  ServiceHarness service_;
  uint64_t a_ = 0, b_ = 0;
  std::string id_;
};

TEST(Backoff, BeginsAgainAfterARestart) {
  ServiceHarness service;
  uint64_t worker = service.Connect(service.Hello("a"));
  spec::Job job = ServiceHarness::Job({ServiceHarness::Gang("train", {}, {1, 1})});
  job.retry[spec::FailureClass::kCrash] = {std::nullopt, absl::Seconds(60), 1, absl::Seconds(60)};
  const std::string id = service.Submit(job);
  service.RunAttempt(id, "train", {worker});
  service.Exit(worker, service.AttemptOf(id, "train"), 0, 70);
  const auto pass = [&](int seconds) {
    for (int i = 0; i < seconds; ++i) {
      service.Advance(absl::Seconds(1));
      service.Beat(worker);
    }
  };
  pass(40);
  EXPECT_EQ(service.StageView(id, "train").state(), v1::STAGE_STATE_BACKOFF);
  service.Restart();
  worker = service.Connect(service.Hello("a"));
  pass(50);
  EXPECT_EQ(service.StageView(id, "train").state(), v1::STAGE_STATE_BACKOFF) << "40 s of before do not count";
  pass(20);
  EXPECT_EQ(service.StageView(id, "train").state(), v1::STAGE_STATE_ACTIVE);
}

// A row whose text was cut within a character would not parse at the next start.
TEST_F(GangAttempt, ALongMessageIsCutBetweenCharacters) {
  Run();
  std::string message = "x";
  while (message.size() < 2 * kMessageBytesMax) message += "\xc3\xa9";
  service_.Exit(a_, Id(), 0, 64, 0, message);
  service_.Exit(b_, Id(), 1, 0, 15);
  service_.Restart();
  EXPECT_EQ(service_.View(id_).state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(service_.View(id_).reason(), HasSubstr("x\xc3\xa9\xc3\xa9"));
}

TEST_F(GangAttempt, ClocksOfAReportThatMakeNoSenseCountAsItsArrival) {
  Run();
  v1::SessionRequest message;
  v1::RankResult& result = *message.mutable_result();
  result.set_attempt_id(Id());
  result.set_exit_code(70);
  result.set_failure(v1::FAILURE_CLASS_CRASH);
  result.set_at_boot_ns(INT64_MAX);
  result.set_sent_boot_ns(INT64_MIN);
  service_.Say(a_, message);
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_STOPPING);
}

TEST_F(GangAttempt, NoRankStartsBeforeTheFenceIsDurable) {
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_FENCING);
  for (const auto& message : service_.TakeSent(a_)) EXPECT_FALSE(message.has_assign());
  service_.Feed(AttemptOpened{Stage().stage_uid(), 1, absl::UnavailableError("away"), {}});
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_FENCING);
  EXPECT_THAT(Stage().reason(), HasSubstr("away"));
  service_.TakeEffects();
  service_.Advance(absl::Seconds(2));
  bool asked_again = false;
  for (const Effect& effect : service_.TakeEffects()) asked_again |= std::holds_alternative<OpenAttempt>(effect);
  EXPECT_TRUE(asked_again);
  service_.Open(Stage().stage_uid(), 1, 40);
  const auto sent = service_.TakeSent(a_);
  ASSERT_FALSE(sent.empty());
  const v1::Assign& assign = sent.back().assign();
  EXPECT_EQ(assign.world(), 2);
  EXPECT_EQ(assign.spec().resume().step(), 40u);
  EXPECT_EQ(assign.secret().size(), 32u);
}

// Not for a moment, as when the service is away: every such answer costs the budget.
TEST_F(GangAttempt, ARefusalOfTheCheckpointServiceEndsTheAttempt) {
  for (uint64_t fence = 1; fence <= 4; ++fence) {
    ASSERT_EQ(Stage().fence(), fence);
    ASSERT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_FENCING);
    service_.Feed(AttemptOpened{
        Stage().stage_uid(), fence, absl::FailedPreconditionError("stage is registered as other/train"), {}});
  }
  for (const uint64_t session : {a_, b_}) {
    for (const auto& message : service_.TakeSent(session)) EXPECT_FALSE(message.has_assign());
  }
  EXPECT_EQ(service_.core().Count().restarts["storage"], 3u);
  EXPECT_EQ(service_.View(id_).state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(service_.View(id_).reason(),
              HasSubstr("the checkpoint service refused the attempt: stage is registered as other/train"));
  EXPECT_EQ(service_.core().Count().slots_taken, 0);
}

TEST_F(GangAttempt, RendezvousLeavesWhenEveryEndpointIsKnown) {
  service_.Open(Stage().stage_uid(), 1);
  service_.TakeSent(a_);
  service_.TakeSent(b_);
  service_.Ready(a_, Id(), 0);
  EXPECT_TRUE(service_.TakeSent(a_).empty());
  EXPECT_THAT(Stage().reason(), HasSubstr("waits for rank 1 on b"));
  service_.Ready(b_, Id(), 1);
  const auto sent = service_.TakeSent(b_);
  ASSERT_EQ(sent.size(), 1u);
  ASSERT_EQ(sent[0].rendezvous().by_rank_size(), 2);
  EXPECT_EQ(sent[0].rendezvous().by_rank(1).tcp(0), "127.0.0.1:4001");
  EXPECT_EQ(service_.TakeSent(a_).size(), 1u);
}

TEST_F(GangAttempt, SucceedsWhenTheArtifactIsCommitted) {
  Run();
  service_.Exit(a_, Id(), 0, 0);
  EXPECT_EQ(Stage().state(), v1::STAGE_STATE_ACTIVE);
  service_.Exit(b_, Id(), 1, 0);
  EXPECT_EQ(Stage().state(), v1::STAGE_STATE_PUBLISHING);
  service_.Publish(Stage().stage_uid(), 1, absl::UnavailableError("away"));
  EXPECT_EQ(Stage().state(), v1::STAGE_STATE_PUBLISHING);
  service_.Publish(Stage().stage_uid(), 1);
  EXPECT_EQ(service_.View(id_).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(service_.core().Count().slots_taken, 0);
}

TEST_F(GangAttempt, ExitZeroWithoutAFinalStepRunsAgain) {
  Run();
  service_.Exit(a_, Id(), 0, 0);
  service_.Exit(b_, Id(), 1, 0);
  service_.Publish(Stage().stage_uid(), 1, absl::NotFoundError("no final step"));
  EXPECT_EQ(Stage().state(), v1::STAGE_STATE_ACTIVE);
  EXPECT_EQ(Stage().fence(), 2u);
  EXPECT_EQ(service_.core().Count().restarts["storage"], 1u);
}

TEST_F(GangAttempt, AFoundFinalStepGoesStraightToPublishing) {
  service_.TakeSent(a_);
  service_.Open(Stage().stage_uid(), 1, 100, /*final=*/true);
  EXPECT_EQ(Stage().state(), v1::STAGE_STATE_PUBLISHING);
  EXPECT_EQ(service_.core().Count().slots_taken, 0);
  for (const auto& message : service_.TakeSent(a_)) EXPECT_FALSE(message.has_assign());
}

TEST_F(GangAttempt, OneCrashStopsTheOthersAndIsTheCause) {
  Run();
  service_.TakeSent(b_);
  service_.Exit(a_, Id(), 0, 70, 0, "segment 7 is gone");
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_STOPPING);
  const auto sent = service_.TakeSent(b_);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].stop().cause(), v1::STOP_CAUSE_FAILURE);
  EXPECT_EQ(sent[0].stop().ranks(0), 1);
  service_.Exit(b_, Id(), 1, 0, 15);
  EXPECT_EQ(Stage().fence(), 2u);
  EXPECT_EQ(service_.core().Count().restarts["crash"], 1u);
}

// A Stop may be lost with a session, and a worker may hang: after the grace it is told again, until it says who ended.
TEST_F(GangAttempt, StopIsSentAgainToAWorkerThatHasNotReaped) {
  Run();
  const auto stops = [this](uint64_t session) {
    std::vector<v1::Stop> found;
    for (const v1::SessionResponse& message : service_.TakeSent(session)) {
      if (message.has_stop()) found.push_back(message.stop());
    }
    return found;
  };
  service_.Exit(a_, Id(), 0, 70, 0, "segment 7 is gone");
  ASSERT_EQ(stops(b_).size(), 1u);
  stops(a_);
  for (int i = 0; i < 14; ++i) Second();
  EXPECT_TRUE(stops(b_).empty()) << "the worker itself kills after the grace of 10 s";
  for (int again = 0; again < 2; ++again) {
    for (int i = 0; i < 15; ++i) Second();
    const std::vector<v1::Stop> sent = stops(b_);
    ASSERT_EQ(sent.size(), 1u) << again;
    EXPECT_EQ(sent[0].attempt_id(), Id());
    ASSERT_EQ(sent[0].ranks_size(), 1);
    EXPECT_EQ(sent[0].ranks(0), 1);
    EXPECT_TRUE(stops(a_).empty()) << "its rank has ended";
  }
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_STOPPING) << "no next attempt beside a rank that may run";
  service_.Exit(b_, Id(), 1, 0, 9);
  EXPECT_EQ(Stage().fence(), 2u);
}

TEST_F(GangAttempt, TheSurvivorsNoiseIsNotTheCause) {
  Run();
  service_.Exit(b_, Id(), 1, 69, 0, "peer 0 is gone");
  service_.Exit(a_, Id(), 0, 79, 0, "20 non-finite steps");
  EXPECT_EQ(service_.core().Count().restarts["numeric"], 1u);
  EXPECT_EQ(service_.core().Count().restarts["peer_lost"], 0u);
}

// SIGKILL after a Stop is ours, but for a rank whose memory the kernel found used up.
TEST_F(GangAttempt, ARankOutOfMemoryIsTheCauseThoughItDiedAfterTheStop) {
  Run();
  service_.Exit(b_, Id(), 1, 69, 0, "peer 0 is gone");
  v1::SessionRequest message;
  message.mutable_result()->set_attempt_id(Id());
  message.mutable_result()->set_rank(0);
  message.mutable_result()->set_signal(9);
  message.mutable_result()->set_failure(v1::FAILURE_CLASS_OUT_OF_MEMORY);
  service_.Say(a_, message);
  EXPECT_EQ(service_.core().Count().restarts["out_of_memory"], 1u);
  EXPECT_EQ(service_.core().Count().restarts["peer_lost"], 0u);
}

TEST_F(GangAttempt, RanksThatAreNotReadyInTimeEndTheAttempt) {
  service_.Open(Stage().stage_uid(), 1);
  service_.Ready(a_, Id(), 0);
  for (int i = 0; i < 302; ++i) Second();
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_STOPPING);
  EXPECT_THAT(Stage().reason(), HasSubstr("not READY within 5m: ranks 1"));
}

TEST_F(GangAttempt, AHungGangBlamesTheRankWithTheFewestCollectives) {
  Run();
  for (uint64_t step = 1; step <= 10; ++step) Second({Beat(0, step, step)}, {Beat(1, step, step)});
  for (int i = 0; i < 9; ++i) Second({Beat(0, 10, 12)}, {Beat(1, 10, 11)});
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_RUNNING);
  for (int i = 0; i < 3; ++i) Second({Beat(0, 10, 12)}, {Beat(1, 10, 11)});
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_STOPPING);
  EXPECT_THAT(Stage().reason(), HasSubstr("rank 1 on b hangs in step at step 10, collective 11"));
}

TEST_F(GangAttempt, TheFirstStepsMayTakeLonger) {
  Run();
  for (int i = 0; i < 100; ++i) Second({Beat(0, 0, 1)}, {Beat(1, 0, 1)});
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_RUNNING);
}

TEST_F(GangAttempt, ARankWithoutBeatsIsFrozen) {
  Run();
  for (uint64_t step = 1; step <= 12; ++step) Second({Beat(0, step, step)}, {});
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_STOPPING);
  EXPECT_THAT(Stage().reason(), HasSubstr("rank 1 on b is frozen"));
}

TEST_F(GangAttempt, ALostWorkerRestartsTheGangSmallerAndKeepsItsSlots) {
  Run();
  for (int i = 0; i < 17; ++i) {  // past the reattach window of the start
    service_.Advance(absl::Seconds(1));
    service_.Beat(a_, {Beat(0, static_cast<uint64_t>(i), 1)});
  }
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_STOPPING);
  service_.Exit(a_, Id(), 0, 0, 15);
  service_.Advance(absl::Seconds(2));
  service_.Beat(a_);
  EXPECT_EQ(Stage().fence(), 2u);
  EXPECT_EQ(Stage().world(), 1);
  const v1::ListNodesResponse nodes = service_.core().ListNodes();
  EXPECT_EQ(nodes.nodes(1).state(), v1::NODE_STATE_LOST);
  EXPECT_EQ(nodes.nodes(1).slots_free(), 0);
}

TEST_F(GangAttempt, CommittedProgressFillsTheRetryBudget) {
  const auto fail_once = [this] {
    service_.RunAttempt(id_, "train", {a_, b_});
    service_.Exit(a_, Id(), 0, 70);
    service_.Exit(b_, Id(), 1, 0, 15);
  };
  for (int i = 0; i < 3; ++i) fail_once();
  service_.Feed(StepCommitted{Stage().stage_uid(), Stage().fence(), 10});
  for (int i = 0; i < 3; ++i) fail_once();
  EXPECT_EQ(service_.View(id_).state(), v1::JOB_STATE_RUNNING);
  fail_once();
  EXPECT_EQ(service_.View(id_).state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(service_.View(id_).reason(), HasSubstr("nothing was committed in 4 attempts in a row"));
}

TEST_F(GangAttempt, ARestartInFencingAsksAgain) {
  service_.Restart();
  bool asked = false;
  for (const Effect& effect : service_.TakeEffects()) asked |= std::holds_alternative<OpenAttempt>(effect);
  EXPECT_TRUE(asked);
  EXPECT_EQ(Stage().fence(), 1u);
}

TEST_F(GangAttempt, ARestartWhileRunningReattaches) {
  Run();
  const std::string attempt = Id();
  service_.Restart();
  v1::Hello hello = service_.Hello("a");
  v1::HeldRank* held = hello.add_held();
  held->set_attempt_id(attempt);
  held->set_fence(1);
  held->set_rank(0);
  held->set_phase(v1::RANK_PHASE_STEP);
  held->mutable_endpoint()->add_tcp("127.0.0.1:4000");
  a_ = service_.Connect(hello);
  const auto sent = service_.TakeSent(a_);
  ASSERT_FALSE(sent.empty());
  ASSERT_TRUE(sent[0].has_welcome());
  EXPECT_EQ(sent[0].coordinator_epoch(), 2u);
  ASSERT_EQ(sent[0].welcome().allowed_size(), 1);
  EXPECT_EQ(sent[0].welcome().allowed(0).attempt_id(), attempt);
  hello = service_.Hello("b");
  held = hello.add_held();
  held->set_attempt_id(attempt);
  held->set_fence(1);
  held->set_rank(1);
  held->set_phase(v1::RANK_PHASE_READY);
  held->mutable_endpoint()->add_tcp("127.0.0.1:4001");
  b_ = service_.Connect(hello);
  // A rendezvous may have been on its way when the coordinator died: it is sent again.
  bool rendezvous = false;
  for (const auto& message : service_.TakeSent(b_)) rendezvous |= message.has_rendezvous();
  EXPECT_TRUE(rendezvous);
  for (int i = 0; i < 30; ++i)
    Second({Beat(0, 1 + static_cast<uint64_t>(i), 1)}, {Beat(1, 1 + static_cast<uint64_t>(i), 1)});
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_RUNNING);
  EXPECT_EQ(Stage().fence(), 1u);
}

TEST_F(GangAttempt, AStaleAnswerOfTheCheckpointServiceChangesNothing) {
  Run();
  service_.Open(Stage().stage_uid(), 1, 0, true);
  service_.Open(Stage().stage_uid(), 7, 0, true);
  service_.Publish(Stage().stage_uid(), 1);
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_RUNNING);
}

}  // namespace
}  // namespace vlm::coordinator
