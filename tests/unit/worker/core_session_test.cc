#include <gtest/gtest.h>

#include <csignal>
#include <set>

#include "tests/unit/worker/core_harness.h"

namespace vlm::worker {
namespace {

using Request = v1::SessionRequest;

TEST(CoreSessionTest, StartsByAskingForASessionAndSaysHello) {
  CoreHarness core;
  EXPECT_EQ(core.All<OpenSession>().size(), 1u);
  EXPECT_TRUE(core.All<SendToCoordinator>().empty());
  core.Connect();
  const auto hellos = core.Sent(Request::kHello);
  ASSERT_EQ(hellos.size(), 1u);
  EXPECT_EQ(hellos[0].hello().node_id(), "node-a");
  EXPECT_EQ(hellos[0].hello().incarnation(), 3u);
  EXPECT_FALSE(core.worker().connected());
  core.Welcome();
  EXPECT_TRUE(core.worker().connected());
}

TEST(CoreSessionTest, BeatsEverySecondOnceWelcomedAndNotBefore) {
  CoreHarness core;
  core.Connect();
  core.Advance(absl::Seconds(3));
  EXPECT_TRUE(core.Sent(Request::kBeat).empty());
  core.Welcome();
  core.Clear();
  core.Advance(absl::Seconds(5));
  EXPECT_EQ(core.Sent(Request::kBeat).size(), 5u);
}

TEST(CoreSessionTest, BeatCarriesRanksShardsAndDisk) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  core.RunRank(1);
  core.Beat(CoreHarness::Key(1), v1::RANK_PHASE_SAVE, 42);
  v1::HeldShard shard;
  shard.set_shard(9);
  shard.set_lease_id(77);
  core.Feed(ShardsLeased{CoreHarness::Key(1), {shard}});
  core.Feed(DiskMeasured{12345});
  core.Clear();
  core.Advance(absl::Seconds(1));
  const auto beats = core.Sent(Request::kBeat);
  ASSERT_EQ(beats.size(), 1u);
  const v1::Beat& beat = beats[0].beat();
  ASSERT_EQ(beat.ranks_size(), 1);
  EXPECT_EQ(beat.ranks(0).attempt_id(), "aa/5");
  EXPECT_EQ(beat.ranks(0).rank(), 1);
  EXPECT_EQ(beat.ranks(0).phase(), v1::RANK_PHASE_SAVE);
  EXPECT_EQ(beat.ranks(0).step(), 42u);
  ASSERT_EQ(beat.shards_size(), 1);
  EXPECT_EQ(beat.shards(0).lease_id(), 77u);
  EXPECT_EQ(beat.disk_free_bytes(), 12345u);
  core.Feed(ShardReleased{shard});
  core.Clear();
  core.Advance(absl::Seconds(1));
  EXPECT_EQ(core.Sent(Request::kBeat)[0].beat().shards_size(), 0);
}

TEST(CoreSessionTest, SequenceGrowsAcrossConnectionsAndAcknowledgesWithinOne) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  core.Advance(absl::Seconds(1));
  core.Feed(SessionLost{"broken"});
  core.Connect();
  core.Welcome();
  uint64_t last = 0;
  for (const SendToCoordinator& send : core.All<SendToCoordinator>()) {
    EXPECT_EQ(send.message.sequence(), last + 1);
    last = send.message.sequence();
    EXPECT_EQ(send.message.acknowledged(), send.message.has_hello() ? 0u : 1u);
  }
  EXPECT_GE(last, 5u);
}

TEST(CoreSessionTest, ReportsAreSentAgainAfterAReconnectUntilAcknowledged) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  core.RunRank(0);
  core.Endpoint(CoreHarness::Key(0), "127.0.0.1:9");
  auto updates = core.Sent(Request::kRank);
  ASSERT_EQ(updates.size(), 2u) << "SPAWNED and the endpoint";
  const uint64_t spawned_sequence = updates[0].sequence();
  core.Coordinator(
      [] {
        v1::SessionResponse m;
        m.mutable_beat();
        return m;
      }(),
      1, spawned_sequence);
  core.Feed(SessionLost{"broken"});
  core.Clear();
  core.Connect();
  EXPECT_EQ(core.Sent(Request::kHello)[0].hello().held(0).endpoint().tcp(0), "127.0.0.1:9");
  EXPECT_TRUE(core.Sent(Request::kRank).empty()) << "nothing before Welcome";
  core.Welcome({5});
  updates = core.Sent(Request::kRank);
  ASSERT_EQ(updates.size(), 1u) << "the acknowledged one is not repeated";
  EXPECT_EQ(updates[0].rank().endpoint().tcp(0), "127.0.0.1:9");
  EXPECT_GT(updates[0].sequence(), core.Sent(Request::kHello)[0].sequence());
}

TEST(CoreSessionTest, ARepeatedResponseIsHandledOnce) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  v1::SessionResponse check;
  check.set_sequence(2);
  check.set_coordinator_epoch(1);
  check.mutable_check_root()->set_root("/r");
  core.Feed(FromCoordinator{check});
  core.Feed(FromCoordinator{check});
  EXPECT_EQ(core.All<ReadNonce>().size(), 1u);
}

TEST(CoreSessionTest, ALowerEpochIsRefusedInEveryState) {
  CoreHarness core;
  core.Connect();
  core.Welcome({}, 7);
  ASSERT_EQ(core.All<StoreEpoch>().size(), 1u);
  EXPECT_EQ(core.All<StoreEpoch>()[0].epoch, 7u);
  core.Assign({{0, 0}});  // epoch 1
  EXPECT_TRUE(core.All<SpawnRank>().empty());
  EXPECT_EQ(core.All<CloseSession>().size(), 1u);
  EXPECT_FALSE(core.worker().connected());
  core.Connect();
  EXPECT_EQ(core.Sent(Request::kHello).back().hello().epoch_seen(), 7u);
  core.Welcome({}, 6);
  EXPECT_FALSE(core.worker().connected());
  EXPECT_EQ(core.All<CloseSession>().size(), 2u);
  core.Connect();
  core.Welcome({}, 8);
  EXPECT_TRUE(core.worker().connected());
  EXPECT_EQ(core.worker().epoch_seen(), 8u);
}

TEST(CoreSessionTest, AnythingBeforeWelcomeEndsTheSession) {
  CoreHarness core;
  core.Connect();
  core.Assign({{0, 0}});
  EXPECT_TRUE(core.All<SpawnRank>().empty());
  EXPECT_EQ(core.All<CloseSession>().size(), 1u);
}

TEST(CoreSessionTest, BytesOfALostSessionAreIgnored) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  core.Feed(SessionLost{"broken"});
  core.Assign({{0, 0}});
  EXPECT_TRUE(core.All<SpawnRank>().empty());
}

TEST(CoreSessionTest, AHelloWithoutWelcomeIsGivenUp) {
  CoreHarness core;
  core.Connect();
  core.Advance(absl::Seconds(9));
  EXPECT_TRUE(core.All<CloseSession>().empty());
  core.Advance(absl::Seconds(1));
  EXPECT_EQ(core.All<CloseSession>().size(), 1u);
}

TEST(CoreSessionTest, ASilentCoordinatorIsGivenUp) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  core.Advance(absl::Seconds(10));
  EXPECT_EQ(core.All<CloseSession>().size(), 1u);
  EXPECT_FALSE(core.worker().connected());
}

TEST(CoreSessionTest, RanksThatAreNotAllowedAreKilledBeforeAnythingIsReported) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  core.RunRank(0, 0);
  core.Feed(SessionLost{"broken"});
  core.Clear();
  core.Connect();
  core.Welcome();  // allows nothing
  const auto signals = core.All<SignalRank>();
  ASSERT_EQ(signals.size(), 1u);
  EXPECT_EQ(signals[0].signal, SIGKILL);
  EXPECT_EQ(signals[0].pid, 100);
  core.Advance(absl::Seconds(2));
  EXPECT_EQ(core.All<SendToCoordinator>().size(), 1u) << "Hello only";
  core.Feed(RankReaped{CoreHarness::Key(0), 0, SIGKILL});
  EXPECT_TRUE(core.worker().connected());
  const auto results = core.Sent(Request::kResult);
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].result().signal(), SIGKILL);
  EXPECT_EQ(results[0].result().failure(), v1::FAILURE_CLASS_PEER_LOST);
}

TEST(CoreSessionTest, AllowedRanksLiveOn) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  core.RunRank(0);
  core.Feed(SessionLost{"broken"});
  core.Connect();
  core.Welcome({5});
  EXPECT_TRUE(core.All<SignalRank>().empty());
  EXPECT_EQ(core.worker().Ranks().size(), 1u);
  EXPECT_TRUE(core.worker().connected());
}

TEST(CoreSessionTest, ResultsAreSentOnlyWhenDurableAndKeptUntilAccepted) {
  CoreHarness core;
  core.store_results = false;
  core.Connect();
  core.Welcome();
  core.RunRank(0);
  core.Feed(RankReaped{CoreHarness::Key(0), 79, 0});
  ASSERT_EQ(core.All<StoreResult>().size(), 1u);
  core.Advance(absl::Seconds(1));
  EXPECT_TRUE(core.Sent(Request::kResult).empty());
  core.Feed(SessionLost{"broken"});
  core.Clear();
  core.Connect();
  // Neither lost nor reported: the rank is still held, so that it is not assigned a second time.
  EXPECT_EQ(core.Sent(Request::kHello)[0].hello().held(0).phase(), v1::RANK_PHASE_EXITED);
  core.Welcome({5});
  core.Feed(ResultStored{CoreHarness::Key(0)});
  ASSERT_EQ(core.Sent(Request::kResult).size(), 1u);
  EXPECT_EQ(core.Sent(Request::kResult)[0].result().failure(), v1::FAILURE_CLASS_NUMERIC);
  core.Advance(absl::Seconds(5));
  EXPECT_EQ(core.Sent(Request::kResult).size(), 2u) << "again while not accepted";
  EXPECT_GT(core.Sent(Request::kResult)[1].result().sent_boot_ns(),
            core.Sent(Request::kResult)[1].result().at_boot_ns());
  core.AcknowledgeResult(0);
  EXPECT_EQ(core.All<RemoveResult>().size(), 1u);
  EXPECT_EQ(core.worker().results_waiting(), 0u);
  core.Clear();
  core.Feed(SessionLost{"broken"});
  core.Connect();
  EXPECT_EQ(core.Sent(Request::kHello)[0].hello().unacknowledged_size(), 0);
}

TEST(CoreSessionTest, ResultsOfEarlierIncarnationsAreReportedInHello) {
  WorkerOptions options = CoreHarness::Options();
  v1::RankResult old;
  old.set_attempt_id("aa/4");
  old.set_fence(4);
  old.set_rank(2);
  old.set_exit_code(70);
  options.stored_results.push_back(old);
  CoreHarness core(options);
  core.Connect();
  ASSERT_EQ(core.Sent(Request::kHello)[0].hello().unacknowledged_size(), 1);
  EXPECT_EQ(core.Sent(Request::kHello)[0].hello().unacknowledged(0).rank(), 2);
  core.Welcome();
  core.AcknowledgeResult(2, 4);
  EXPECT_EQ(core.All<RemoveResult>().size(), 1u);
}

TEST(CoreSessionTest, ResultsThatFindNoRoomInHelloFollowIt) {
  WorkerOptions options = CoreHarness::Options();
  for (int rank = 0; rank < 40; ++rank) {
    v1::RankResult& old = options.stored_results.emplace_back();
    old.set_attempt_id("aa/4");
    old.set_fence(4);
    old.set_rank(rank);
  }
  CoreHarness core(options);
  core.Connect();
  std::set<int> reported;
  const Request hello = core.Sent(Request::kHello)[0];
  for (const v1::RankResult& result : hello.hello().unacknowledged()) reported.insert(result.rank());
  EXPECT_LT(reported.size(), 40u);
  core.Welcome();
  core.Advance(absl::Seconds(5));
  for (const Request& message : core.Sent(Request::kResult)) reported.insert(message.result().rank());
  EXPECT_EQ(reported.size(), 40u);
}

TEST(CoreSessionTest, RootChecksAreAnsweredEvenWhenTheSessionBreaksMeanwhile) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  v1::SessionResponse check;
  check.mutable_check_root()->set_root("/r");
  check.mutable_check_root()->set_nonce_file("n");
  core.Coordinator(check);
  ASSERT_EQ(core.All<ReadNonce>().size(), 1u);
  core.Feed(SessionLost{"broken"});
  core.Feed(RootRead{"/r", "no such file"});
  EXPECT_TRUE(core.Sent(Request::kRootChecked).empty());
  core.Connect();
  core.Welcome();
  ASSERT_EQ(core.Sent(Request::kRootChecked).size(), 1u);
  EXPECT_EQ(core.Sent(Request::kRootChecked)[0].root_checked().error(), "no such file");
}

TEST(CoreSessionTest, OrphansAreStoppedAfterTheGraceAndNotBefore) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  core.RunRank(0);
  core.Feed(SessionLost{"broken"});
  for (int second = 0; second < 599; ++second) {
    core.Beat(CoreHarness::Key(0));
    core.Advance(absl::Seconds(1));
  }
  EXPECT_TRUE(core.All<SignalRank>().empty());
  core.Beat(CoreHarness::Key(0));
  core.Advance(absl::Seconds(1));
  ASSERT_EQ(core.All<SignalRank>().size(), 1u);
  EXPECT_EQ(core.All<SignalRank>()[0].signal, SIGTERM);
  core.Advance(absl::Seconds(10));
  EXPECT_EQ(core.All<SignalRank>().back().signal, SIGKILL);
  core.Feed(RankReaped{CoreHarness::Key(0), 0, SIGKILL});
  EXPECT_EQ(core.All<StoreResult>()[0].result.failure(), v1::FAILURE_CLASS_WORKER_LOST);
}

TEST(CoreSessionTest, ALossIsNotedOnceForEachKindOfReason) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  const auto lose = [&](const std::string& reason) {
    const size_t before = core.All<Note>().size();
    core.Feed(SessionLost{reason});
    return core.All<Note>().size() - before;
  };
  EXPECT_EQ(lose("UNAVAILABLE: connection refused"), 1u);
  EXPECT_EQ(lose("UNAVAILABLE: connection reset"), 0u) << "twice a second while it is away";
  EXPECT_EQ(lose("FAILED_PRECONDITION: INCOMPATIBLE_VERSION: install another"), 1u) << "it is back, and refuses";
  EXPECT_EQ(lose("FAILED_PRECONDITION: INCOMPATIBLE_VERSION: install another"), 0u);
  core.Connect();
  core.Welcome();
  EXPECT_EQ(lose("FAILED_PRECONDITION: INCOMPATIBLE_VERSION: install another"), 1u);
}

TEST(CoreSessionTest, WelcomeSetsTheOrphanGrace) {
  CoreHarness core;
  core.Connect();
  v1::SessionResponse message;
  message.mutable_welcome()->mutable_orphan_grace()->set_seconds(3);
  core.Coordinator(message);
  core.RunRank(0);
  const auto told = core.All<SendToTrainer>();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].message.start().orphan_grace().seconds(), 3) << "so long its calls may wait";
  core.Feed(SessionLost{"broken"});
  core.Advance(absl::Seconds(3));
  EXPECT_EQ(core.All<SignalRank>().size(), 1u);
}

TEST(CoreSessionTest, ShutdownStopsRanksDeliversResultsAndFinishes) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  core.RunRank(0);
  core.Clear();
  core.Feed(ShutdownRequested{});
  ASSERT_EQ(core.All<SignalRank>().size(), 1u);
  EXPECT_EQ(core.All<SignalRank>()[0].signal, SIGTERM);
  core.Assign({{1, 1}});
  EXPECT_TRUE(core.All<SpawnRank>().empty());
  core.Feed(RankReaped{CoreHarness::Key(0), 0, SIGTERM});
  EXPECT_EQ(core.Sent(Request::kResult).size(), 1u);
  EXPECT_TRUE(core.All<Finish>().empty());
  core.AcknowledgeResult(0);
  EXPECT_EQ(core.All<Finish>().size(), 1u);
}

TEST(CoreSessionTest, ShutdownDoesNotWaitForACoordinatorThatIsAway) {
  CoreHarness core;
  core.Connect();
  core.Welcome();
  core.RunRank(0);
  core.Feed(ShutdownRequested{});
  core.Feed(RankReaped{CoreHarness::Key(0), 0, 0});
  core.Advance(absl::Seconds(2));
  EXPECT_EQ(core.All<Finish>().size(), 1u) << "the stored result is reported by the next incarnation";
  CoreHarness alone;
  alone.Feed(ShutdownRequested{});
  EXPECT_EQ(alone.All<Finish>().size(), 1u);
}

}  // namespace
}  // namespace vlm::worker
