#include <gtest/gtest.h>

#include <csignal>

#include "tests/unit/worker/core_harness.h"
#include "worker/core/held_rank.h"

namespace vlm::worker {
namespace {

using Request = v1::SessionRequest;

class CoreRanksTest : public testing::Test {
 protected:
  CoreRanksTest() {
    core_.Connect();
    core_.Welcome();
    core_.Clear();
  }
  static RankKey Key(int rank, uint64_t fence = 5) { return CoreHarness::Key(rank, fence); }
  // Keeps the session alive while time passes.
  void Pass(int seconds, bool trainer_beats) {
    for (int i = 0; i < seconds; ++i) {
      v1::SessionResponse message;
      message.mutable_beat();
      core_.Coordinator(message);
      if (trainer_beats) {
        for (const auto& rank : core_.worker().Ranks()) core_.Beat(rank.key);
      }
      core_.Advance(absl::Seconds(1));
    }
  }
  CoreHarness core_;
};

TEST_F(CoreRanksTest, AssignIsIdempotent) {
  core_.Assign({{0, 0}, {1, 1}});
  EXPECT_EQ(core_.All<SpawnRank>().size(), 2u);
  EXPECT_EQ(core_.All<SpawnRank>()[1].device.index(), 1);
  core_.Assign({{0, 0}, {1, 1}});
  core_.Feed(RankSpawned{Key(0), 100});
  core_.Assign({{0, 0}, {1, 1}});
  EXPECT_EQ(core_.All<SpawnRank>().size(), 2u);
}

TEST_F(CoreRanksTest, ARankWhoseResultWaitsIsNotStartedAgainButOneAcceptedIs) {
  core_.RunRank(0);
  core_.Feed(RankReaped{Key(0), 70, 0});
  core_.Clear();
  core_.Assign({{0, 0}});
  EXPECT_TRUE(core_.All<SpawnRank>().empty());
  core_.AcknowledgeResult(0);
  core_.Assign({{0, 0}});
  EXPECT_EQ(core_.All<SpawnRank>().size(), 1u) << "a pool's rank is replaced at the same fence";
}

TEST_F(CoreRanksTest, ADeviceThatIsNotOfferedIsAnErrorNotACrash) {
  core_.Assign({{0, 9}});
  EXPECT_TRUE(core_.All<SpawnRank>().empty());
  ASSERT_EQ(core_.Sent(Request::kResult).size(), 1u);
  EXPECT_EQ(core_.Sent(Request::kResult)[0].result().failure(), v1::FAILURE_CLASS_INCOMPATIBLE);
}

// As when a card was exchanged: the same place, another device.
TEST_F(CoreRanksTest, ADeviceOfAnotherUuidIsNotTheOneAssigned) {
  v1::SessionResponse message;
  message.mutable_assign()->set_attempt_id("aa/5");
  message.mutable_assign()->set_fence(5);
  message.mutable_assign()->set_world(1);
  *message.mutable_assign()->add_ranks()->mutable_device() = CoreHarness::Slot(0);
  message.mutable_assign()->mutable_ranks(0)->mutable_device()->set_uuid("GPU-9");
  core_.Coordinator(message);
  EXPECT_TRUE(core_.All<SpawnRank>().empty());
  ASSERT_EQ(core_.Sent(Request::kResult).size(), 1u);
  EXPECT_EQ(core_.Sent(Request::kResult)[0].result().failure(), v1::FAILURE_CLASS_INCOMPATIBLE);
}

TEST_F(CoreRanksTest, ANewFenceKillsTheOldAttemptAndWaitsForItsSlot) {
  core_.RunRank(0, 0, 5);
  core_.Clear();
  core_.Assign({{0, 0}}, 6);
  ASSERT_EQ(core_.All<SignalRank>().size(), 1u);
  EXPECT_EQ(core_.All<SignalRank>()[0].signal, SIGKILL);
  EXPECT_TRUE(core_.All<SpawnRank>().empty()) << "the slot is still taken";
  core_.Feed(RankReaped{Key(0, 5), 0, SIGKILL});
  ASSERT_EQ(core_.All<SpawnRank>().size(), 1u);
  EXPECT_EQ(core_.All<SpawnRank>()[0].rank.fence, 6u);
}

TEST_F(CoreRanksTest, AnOlderFenceIsIgnoredWhileANewerRuns) {
  core_.RunRank(0, 0, 6);
  core_.Clear();
  core_.Assign({{1, 1}}, 5);
  EXPECT_TRUE(core_.All<SpawnRank>().empty());
  EXPECT_TRUE(core_.All<SignalRank>().empty());
}

TEST_F(CoreRanksTest, HelloIsAnsweredWithStartAgainAfterAnAttachBroke) {
  core_.RunRank(1, 1);
  auto sent = core_.All<SendToTrainer>();
  ASSERT_EQ(sent.size(), 1u);
  const v1::Start& start = sent[0].message.start();
  EXPECT_EQ(start.rank(), 1);
  EXPECT_EQ(start.fence(), 5u);
  EXPECT_EQ(start.world(), 1);
  EXPECT_EQ(start.secret(), "secret");
  EXPECT_EQ(start.spec().stage(), "pretrain");
  EXPECT_EQ(start.device().index(), 1);
  EXPECT_EQ(start.run_folder(), "/run/aa-5-r1");
  EXPECT_EQ(start.data_roots(0), "/data");
  core_.Feed(TrainerDetached{Key(1)});
  EXPECT_FALSE(core_.worker().Ranks()[0].attached);
  core_.Hello(Key(1));
  EXPECT_EQ(core_.All<SendToTrainer>().size(), 2u);
}

TEST_F(CoreRanksTest, RendezvousReachesAttachedTrainersNowAndOthersWithTheirHello) {
  core_.Assign({{0, 0}, {1, 1}});
  core_.Feed(RankSpawned{Key(0), 100});
  core_.Feed(RankSpawned{Key(1), 101});
  core_.Hello(Key(0));
  core_.Clear();
  v1::SessionResponse message;
  message.mutable_rendezvous()->set_attempt_id("aa/5");
  message.mutable_rendezvous()->set_fence(5);
  message.mutable_rendezvous()->add_by_rank()->add_tcp("127.0.0.1:1");
  core_.Coordinator(message);
  ASSERT_EQ(core_.All<SendToTrainer>().size(), 1u);
  EXPECT_EQ(core_.All<SendToTrainer>()[0].rank.rank, 0);
  EXPECT_TRUE(core_.All<SendToTrainer>()[0].message.has_rendezvous());
  core_.Hello(Key(1));
  const auto sent = core_.All<SendToTrainer>();
  ASSERT_EQ(sent.size(), 3u);
  EXPECT_TRUE(sent[1].message.has_start());
  EXPECT_TRUE(sent[2].message.has_rendezvous());
  message.mutable_rendezvous()->set_fence(4);
  message.mutable_rendezvous()->set_attempt_id("aa/4");
  core_.Clear();
  core_.Coordinator(message);
  EXPECT_TRUE(core_.All<SendToTrainer>().empty()) << "of another attempt";
}

TEST_F(CoreRanksTest, ARendezvousThatComesAgainIsNotPassedOn) {
  core_.RunRank(0);
  v1::SessionResponse message;
  message.mutable_rendezvous()->set_attempt_id("aa/5");
  message.mutable_rendezvous()->set_fence(5);
  message.mutable_rendezvous()->add_by_rank()->add_tcp("127.0.0.1:1");
  core_.Coordinator(message);
  core_.Clear();
  core_.Coordinator(message);
  EXPECT_TRUE(core_.All<SendToTrainer>().empty());
  core_.Feed(TrainerDetached{Key(0)});
  core_.Hello(Key(0));
  const auto sent = core_.All<SendToTrainer>();
  ASSERT_EQ(sent.size(), 2u) << "a new stream gets start and rendezvous, as the first did";
  EXPECT_EQ(sent[1].message.rendezvous().by_rank(0).tcp(0), "127.0.0.1:1");
}

TEST_F(CoreRanksTest, EndpointAndPhasesAreReported) {
  core_.RunRank(0);
  core_.Endpoint(Key(0), "127.0.0.1:5");
  core_.Beat(Key(0), v1::RANK_PHASE_LOAD);
  core_.Beat(Key(0), v1::RANK_PHASE_LOAD);
  core_.Beat(Key(0), v1::RANK_PHASE_STEP);
  std::vector<v1::RankPhase> phases;
  int endpoints = 0;
  for (const auto& message : core_.Sent(Request::kRank)) {
    if (message.rank().has_endpoint()) {
      ++endpoints;
    } else {
      phases.push_back(message.rank().phase());
    }
  }
  EXPECT_EQ(endpoints, 1);
  EXPECT_EQ(phases, (std::vector<v1::RankPhase>{v1::RANK_PHASE_SPAWNED, v1::RANK_PHASE_LOAD, v1::RANK_PHASE_STEP}));
}

TEST_F(CoreRanksTest, AStopTermsThenKillsAndIsIdempotent) {
  core_.RunRank(0);
  core_.Clear();
  core_.StopOrder(5, absl::Seconds(4));
  ASSERT_EQ(core_.All<SignalRank>().size(), 1u);
  EXPECT_EQ(core_.All<SignalRank>()[0].signal, SIGTERM);
  core_.StopOrder(5, absl::Seconds(4));
  Pass(3, true);
  EXPECT_EQ(core_.All<SignalRank>().size(), 1u);
  Pass(1, true);
  ASSERT_EQ(core_.All<SignalRank>().size(), 2u);
  EXPECT_EQ(core_.All<SignalRank>()[1].signal, SIGKILL);
  core_.Feed(RankReaped{Key(0), 0, SIGKILL});
  ASSERT_EQ(core_.Sent(Request::kResult).size(), 1u);
  EXPECT_EQ(core_.Sent(Request::kResult)[0].result().failure(), v1::FAILURE_CLASS_PEER_LOST);
}

TEST_F(CoreRanksTest, AStopOfOneRankLeavesTheOthers) {
  core_.RunRank(0, 0);
  core_.RunRank(1, 1);
  core_.Clear();
  core_.StopOrder(5, absl::Seconds(1), {1});
  ASSERT_EQ(core_.All<SignalRank>().size(), 1u);
  EXPECT_EQ(core_.All<SignalRank>()[0].rank.rank, 1);
  core_.StopOrder(4, absl::Seconds(1));
  EXPECT_EQ(core_.All<SignalRank>().size(), 1u) << "of another attempt";
}

TEST_F(CoreRanksTest, AStopBeforeTheSpawnAnswerIsCarriedOutAfterIt) {
  core_.Assign({{0, 0}});
  core_.StopOrder(5, absl::Seconds(1));
  EXPECT_TRUE(core_.All<SignalRank>().empty());
  core_.Feed(RankSpawned{Key(0), 100});
  ASSERT_EQ(core_.All<SignalRank>().size(), 1u);
  EXPECT_EQ(core_.All<SignalRank>()[0].signal, SIGTERM);
}

TEST_F(CoreRanksTest, AStopOfARankThatWaitsForItsSlotEndsItAtOnce) {
  core_.RunRank(0, 0, 5);
  core_.Assign({{0, 0}}, 6);
  core_.Clear();
  core_.StopOrder(6, absl::Seconds(1));
  ASSERT_EQ(core_.Sent(Request::kResult).size(), 1u);
  EXPECT_EQ(core_.Sent(Request::kResult)[0].result().fence(), 6u);
  core_.Feed(RankReaped{Key(0, 5), 0, SIGKILL});
  EXPECT_TRUE(core_.All<SpawnRank>().empty());
}

TEST_F(CoreRanksTest, AFailedSpawnIsAResult) {
  core_.Assign({{0, 0}});
  core_.Feed(RankSpawnFailed{Key(0), "no such file"});
  const auto results = core_.Sent(Request::kResult);
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].result().failure(), v1::FAILURE_CLASS_CRASH);
  EXPECT_NE(results[0].result().message().find("no such file"), std::string::npos);
}

TEST_F(CoreRanksTest, ATrainerThatNeverAttachesIsKilled) {
  core_.Assign({{0, 0}});
  core_.Feed(RankSpawned{Key(0), 100});
  Pass(59, false);
  EXPECT_TRUE(core_.All<SignalRank>().empty());
  Pass(1, false);
  ASSERT_EQ(core_.All<SignalRank>().size(), 1u);
  EXPECT_EQ(core_.All<SignalRank>()[0].signal, SIGKILL);
  core_.Feed(RankReaped{Key(0), 0, SIGKILL});
  EXPECT_EQ(core_.Sent(Request::kResult)[0].result().failure(), v1::FAILURE_CLASS_START_TIMEOUT);
}

TEST_F(CoreRanksTest, ATrainerWithoutBeatsIsKilledAsFrozen) {
  core_.RunRank(0);
  core_.Beat(Key(0));
  Pass(30, true);
  EXPECT_TRUE(core_.All<SignalRank>().empty());
  core_.Beat(Key(0));
  Pass(9, false);
  EXPECT_TRUE(core_.All<SignalRank>().empty());
  Pass(1, false);
  ASSERT_EQ(core_.All<SignalRank>().size(), 1u);
  EXPECT_EQ(core_.All<SignalRank>()[0].signal, SIGKILL);
  core_.Feed(RankReaped{Key(0), 0, SIGKILL});
  EXPECT_EQ(core_.Sent(Request::kResult)[0].result().failure(), v1::FAILURE_CLASS_HANG);
}

TEST_F(CoreRanksTest, KillIsRepeatedUntilTheRankIsReaped) {
  core_.RunRank(0);
  core_.Clear();
  core_.StopOrder(5, absl::ZeroDuration());
  Pass(3, false);
  EXPECT_GE(core_.All<SignalRank>().size(), 3u);
  core_.Feed(RankReaped{Key(0), 0, SIGKILL});
  core_.Clear();
  Pass(3, false);
  EXPECT_TRUE(core_.All<SignalRank>().empty());
}

TEST_F(CoreRanksTest, TheTrainersOwnWordsAreInTheResult) {
  core_.RunRank(0);
  core_.Beat(Key(0), v1::RANK_PHASE_STEP, 17);
  v1::AttachRequest failure;
  failure.mutable_failure()->set_message("row 7 of a.jsonl has no image");
  core_.Feed(FromTrainer{Key(0), failure});
  core_.Feed(RankReaped{Key(0), 65, 0});
  const v1::RankResult result = core_.Sent(Request::kResult)[0].result();
  EXPECT_EQ(result.failure(), v1::FAILURE_CLASS_BAD_DATA);
  EXPECT_EQ(result.message().find("row 7 of a.jsonl"), 0u);
  EXPECT_EQ(result.last_phase(), v1::RANK_PHASE_STEP);
  EXPECT_EQ(result.last_step(), 17u);
  EXPECT_EQ(core_.All<ForgetRank>().size(), 1u);
}

// What does not parse is refused by the coordinator with the whole session, again and again, and stops the next start.
TEST_F(CoreRanksTest, ALongMessageIsCutBetweenCharacters) {
  for (const size_t bytes : {size_t{3000}, kResultMessageBytesMax, kResultMessageBytesMax + 1}) {
    const int rank = 0;
    core_.Clear();
    core_.RunRank(rank, 0, bytes);
    v1::AttachRequest failure;
    std::string message(bytes % 2 == 0 ? 1 : 2, 'x');
    while (message.size() < bytes) message += "\xc3\xa9";
    failure.mutable_failure()->set_message(message);
    core_.Feed(FromTrainer{Key(rank, bytes), failure});
    core_.Feed(RankReaped{Key(rank, bytes), 70, 0});
    const std::vector<StoreResult> stored = core_.All<StoreResult>();
    ASSERT_EQ(stored.size(), 1u);
    EXPECT_LE(stored[0].result.message().size(), kResultMessageBytesMax);
    v1::RankResult again;
    EXPECT_TRUE(again.ParseFromString(stored[0].result.SerializeAsString())) << "of " << bytes << " bytes";
  }
}

TEST_F(CoreRanksTest, ShardsOfAnEndedRankAreNotRenewed) {
  core_.RunRank(0);
  v1::HeldShard shard;
  shard.set_shard(1);
  core_.Feed(ShardsLeased{Key(0), {shard}});
  core_.Feed(RankReaped{Key(0), 0, SIGSEGV});
  core_.Clear();
  Pass(1, false);
  EXPECT_EQ(core_.Sent(Request::kBeat).back().beat().shards_size(), 0);
  core_.Feed(ShardsLeased{Key(0), {shard}});
  core_.Clear();
  Pass(1, false);
  EXPECT_EQ(core_.Sent(Request::kBeat).back().beat().shards_size(), 0);
}

// Any input about a rank that is not held, or not in the state the input supposes, is harmless.
TEST_F(CoreRanksTest, StrayInputsAreIgnoredInEveryState) {
  v1::AttachRequest hello;
  hello.mutable_hello();
  v1::HeldShard shard;
  const std::vector<Input> strays = {RankSpawned{Key(7), 1},
                                     RankSpawnFailed{Key(7), "x"},
                                     RankReaped{Key(7), 1, 0},
                                     FromTrainer{Key(7), hello},
                                     TrainerDetached{Key(7)},
                                     ResultStored{Key(7)},
                                     ShardsLeased{Key(7), {shard}},
                                     ShardReleased{shard},
                                     TimePassed{},
                                     DiskMeasured{1}};
  const auto feed_all = [&] {
    core_.Clear();
    for (const Input& stray : strays) core_.Feed(stray);
    EXPECT_TRUE(core_.All<StoreResult>().empty());
    EXPECT_TRUE(core_.All<SignalRank>().empty());
    EXPECT_TRUE(core_.All<SendToTrainer>().empty());
    EXPECT_TRUE(core_.All<SpawnRank>().empty());
  };
  feed_all();  // live, no rank
  core_.Assign({{0, 0}});
  feed_all();  // assigned
  core_.Feed(RankSpawned{Key(0), 100});
  feed_all();                            // spawned
  core_.Feed(RankSpawned{Key(0), 200});  // a second answer
  EXPECT_EQ(core_.worker().Ranks()[0].pid, 100);
  core_.Feed(ResultStored{Key(0)});  // not reaped yet
  EXPECT_EQ(core_.worker().Ranks().size(), 1u);
  core_.Hello(Key(0));
  feed_all();  // attached
  core_.StopOrder(5, absl::Seconds(5));
  feed_all();  // stopping
  core_.Feed(SessionLost{"x"});
  feed_all();  // down
  core_.Connect();
  feed_all();  // hello
  core_.Feed(RankReaped{Key(0), 0, SIGTERM});
  core_.Feed(RankReaped{Key(0), 0, SIGTERM});  // once only
  EXPECT_EQ(core_.worker().results_waiting(), 1u);
}

}  // namespace
}  // namespace vlm::worker
