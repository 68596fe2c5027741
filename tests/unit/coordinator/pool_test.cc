#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/coordinator/service_harness.h"

namespace vlm::coordinator {
namespace {

using testing::HasSubstr;

class PoolAttempt : public testing::Test {
 protected:
  void SetUp() override {
    a_ = service_.Connect(service_.Hello("a"));
    b_ = service_.Connect(service_.Hello("b"));
    id_ = service_.Submit(ServiceHarness::Job({ServiceHarness::Pool("make", 3, {1, 2})}));
    service_.RunAttempt(id_, "make", {a_, b_});
  }
  v1::Stage Stage() { return service_.StageView(id_, "make"); }
  std::string Id() { return service_.AttemptOf(id_, "make"); }
  absl::StatusOr<v1::LeaseShardsResponse> Lease(int32_t rank, const std::string& node, uint32_t count = 1) {
    LeaseShards input{++call_, node, {}};
    input.request.set_stage_uid(Stage().stage_uid());
    input.request.set_fence(Stage().fence());
    input.request.set_rank(rank);
    input.request.set_count(count);
    const Reply reply = service_.Call(input, call_);
    if (!reply.status.ok()) return reply.status;
    return std::get<v1::LeaseShardsResponse>(reply.response);
  }
  absl::Status Commit(uint32_t shard, uint64_t lease, uint64_t fence = 0, const std::string& node = "a") {
    CommitShard input{++call_, node, {}};
    input.request.set_stage_uid(Stage().stage_uid());
    input.request.set_fence(fence == 0 ? Stage().fence() : fence);
    input.request.set_shard(shard);
    input.request.set_lease_id(lease);
    return service_.Call(input, call_).status;
  }
  absl::Status FailOnce(uint32_t shard, uint64_t lease, const std::string& node = "a",
                        const std::string& error = "line 7 is not JSON") {
    FailShard input{++call_, node, {}};
    input.request.set_stage_uid(Stage().stage_uid());
    input.request.set_fence(Stage().fence());
    input.request.set_shard(shard);
    input.request.set_lease_id(lease);
    input.request.set_error(error);
    return service_.Call(input, call_).status;
  }
  void DoShards(uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
      const auto lease = Lease(0, "a");
      ASSERT_TRUE(lease.ok() && lease->leases_size() == 1) << lease.status();
      ASSERT_TRUE(Commit(lease->leases(0).shard(), lease->leases(0).lease_id()).ok());
    }
  }

  ServiceHarness service_;
  uint64_t a_ = 0, b_ = 0, call_ = 1000;
  std::string id_;
};

TEST_F(PoolAttempt, ShardsThenTheFinishTaskThenTheEnd) {
  DoShards(3);
  EXPECT_EQ(Stage().progress().done(), 3u);
  const auto finish = Lease(1, "b");
  ASSERT_EQ(finish->leases_size(), 1);
  EXPECT_TRUE(finish->leases(0).finish());
  const auto idle = Lease(0, "a");
  EXPECT_TRUE(idle->leases().empty());
  EXPECT_FALSE(idle->done());
  EXPECT_GT(idle->retry_ms(), 0u);
  ASSERT_TRUE(Commit(3, finish->leases(0).lease_id(), 0, "b").ok());
  EXPECT_TRUE(Lease(0, "a")->done());
  service_.Exit(a_, Id(), 0, 0);
  service_.Exit(b_, Id(), 1, 0);
  EXPECT_EQ(Stage().state(), v1::STAGE_STATE_PUBLISHING);
}

TEST_F(PoolAttempt, ALostRankGivesItsShardsBackAndIsReplacedUnderTheSameFence) {
  const auto lease = Lease(0, "a");
  service_.TakeSent(a_);
  service_.Exit(a_, Id(), 0, 70, 0, "boom");
  EXPECT_EQ(Stage().fence(), 1u);
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_RUNNING);
  bool assigned = false;
  for (const auto& message : service_.TakeSent(a_)) {
    if (!message.has_assign()) continue;
    assigned = true;
    EXPECT_EQ(message.assign().ranks(0).rank(), 2) << "a number of its own: late reports cannot be mistaken";
  }
  EXPECT_TRUE(assigned);
  EXPECT_EQ(Lease(2, "a")->leases(0).shard(), lease->leases(0).shard());
  EXPECT_EQ(Lease(0, "a").status().code(), absl::StatusCode::kFailedPrecondition) << "the dead rank's number is over";
}

TEST(GrowingPool, TakesAWorkerThatJoinsLaterWhileShardsAreLeft) {
  ServiceHarness service;
  const uint64_t a = service.Connect(service.Hello("a"));
  const std::string id = service.Submit(ServiceHarness::Job({ServiceHarness::Pool("make", 3, {1, 3})}));
  service.RunAttempt(id, "make", {a});
  const auto stage = [&] { return service.StageView(id, "make"); };
  ASSERT_EQ(stage().world(), 1);
  uint64_t call = 1000;
  const auto lease = [&](int32_t rank, const std::string& node) {
    LeaseShards input{++call, node, {}};
    input.request.set_stage_uid(stage().stage_uid());
    input.request.set_fence(1);
    input.request.set_rank(rank);
    input.request.set_count(1);
    const Reply reply = service.Call(input, call);
    return reply.status.ok() ? std::get<v1::LeaseShardsResponse>(reply.response) : v1::LeaseShardsResponse();
  };
  ASSERT_EQ(lease(0, "a").leases_size(), 1);
  const uint64_t b = service.Connect(service.Hello("b"));
  EXPECT_EQ(stage().world(), 2);
  EXPECT_EQ(stage().fence(), 1u) << "the same attempt";
  EXPECT_THAT(service.event_kinds(), testing::Contains("rank.added"));
  bool assigned = false;
  for (const auto& message : service.TakeSent(b)) assigned = assigned || message.has_assign();
  EXPECT_TRUE(assigned);
  ASSERT_EQ(lease(1, "b").leases_size(), 1);
  ASSERT_EQ(lease(1, "b").leases_size(), 1);
  service.Connect(service.Hello("c"));
  EXPECT_EQ(stage().world(), 2) << "every shard is in work";
}

TEST_F(PoolAttempt, TheLastRankLostEndsTheAttemptAndKeepsWhatIsDone) {
  DoShards(2);
  service_.Exit(a_, Id(), 0, 70);
  service_.Exit(b_, Id(), 1, 70);
  service_.Exit(a_, Id(), 2, 70);
  EXPECT_EQ(Stage().progress().done(), 2u);
  EXPECT_EQ(Stage().fence(), 1u) << "a replacement for the second is there";
}

TEST_F(PoolAttempt, WhoeverDoesTheFinishTaskAgainNeedsANewFence) {
  DoShards(3);
  ASSERT_EQ(Lease(1, "b")->leases_size(), 1);
  service_.Exit(b_, Id(), 1, 70, 0, "boom");
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_STOPPING);
  service_.Exit(a_, Id(), 0, 0, 15);
  EXPECT_EQ(Stage().fence(), 2u);
  EXPECT_EQ(Stage().progress().done(), 3u);
}

TEST_F(PoolAttempt, ARankThatLeavesBeforeTheWorkIsDoneHasFailed) {
  service_.Exit(a_, Id(), 0, 0);
  EXPECT_THAT(service_.event_kinds(), testing::Contains("rank.failed"));
}

TEST_F(PoolAttempt, ThreeFailuresPoisonAShardAndFailTheStage) {
  for (int i = 0; i < 3; ++i) {
    const auto lease = Lease(0, "a");
    ASSERT_TRUE(FailOnce(lease->leases(0).shard(), lease->leases(0).lease_id()).ok());
  }
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_STOPPING);
  service_.Exit(a_, Id(), 0, 0, 15);
  service_.Exit(b_, Id(), 1, 0, 15);
  EXPECT_EQ(service_.View(id_).state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(service_.View(id_).reason(), HasSubstr("shard 0 failed 3 times: line 7 is not JSON"));
  EXPECT_TRUE(service_.Retry(id_).ok());
  EXPECT_EQ(Stage().state(), v1::STAGE_STATE_ACTIVE) << "a person's retry gives the shard a new chance";
}

// As when its rank dies: the next try needs a new fence.
TEST_F(PoolAttempt, AFinishTaskThatFailsEndsTheAttemptWithItsWords) {
  DoShards(3);
  const auto finish = Lease(1, "b");
  ASSERT_TRUE(finish.ok() && finish->leases_size() == 1 && finish->leases(0).finish()) << finish.status();
  ASSERT_TRUE(FailOnce(finish->leases(0).shard(), finish->leases(0).lease_id(), "b", "no room for the index").ok());
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_STOPPING);
  EXPECT_THAT(Stage().reason(), HasSubstr("the finish task failed: no room for the index"));
  service_.Exit(a_, Id(), 0, 0, 15);
  service_.Exit(b_, Id(), 1, 0, 15);
  EXPECT_EQ(Stage().restarts(), 1);
  EXPECT_EQ(Stage().fence(), 2u);
}

// The shards are done; what joins them was lost.
TEST_F(PoolAttempt, WhenPublishingFailsTheFinishTaskIsDoneAgain) {
  DoShards(3);
  ASSERT_TRUE(Commit(3, Lease(0, "a")->leases(0).lease_id()).ok());
  service_.Exit(a_, Id(), 0, 0);
  service_.Exit(b_, Id(), 1, 0);
  ASSERT_EQ(Stage().state(), v1::STAGE_STATE_PUBLISHING);
  service_.Publish(Stage().stage_uid(), 1, absl::DataLossError("the stage's final step is damaged"));
  EXPECT_EQ(Stage().fence(), 2u);
  EXPECT_EQ(Stage().progress().done(), 3u);
  EXPECT_EQ(service_.rows().at(std::string(kShardFamily)).size(), 3u);
  service_.RunAttempt(id_, "make", {a_, b_});
  const v1::RankPlacement rank = Stage().ranks(0);
  const auto finish = Lease(rank.rank(), rank.node_id());
  ASSERT_TRUE(finish.ok() && finish->leases_size() == 1) << finish.status();
  EXPECT_TRUE(finish->leases(0).finish());
  EXPECT_TRUE(Commit(3, finish->leases(0).lease_id(), 0, rank.node_id()).ok());
}

TEST_F(PoolAttempt, ALongErrorOfAShardIsCutBetweenCharacters) {
  std::string error = "x";
  while (error.size() < 2 * kMessageBytesMax) error += "\xc3\xa9";
  for (int i = 0; i < 3; ++i) {
    const auto lease = Lease(0, "a");
    ASSERT_TRUE(FailOnce(lease->leases(0).shard(), lease->leases(0).lease_id(), "a", error).ok());
  }
  service_.Restart();
  EXPECT_THAT(service_.View(id_).reason(), HasSubstr("shard 0 failed 3 times: x\xc3\xa9"));
}

// The end of the last rank ends the attempt at once, and a stage that is tried again forgets what was poisoned.
TEST_F(PoolAttempt, OneRankMayPoisonSeveralShardsOfAStageThatIsTriedAgain) {
  spec::Job job = ServiceHarness::Job({ServiceHarness::Pool("make", 3, {1, 1})}, "other");
  job.retry[spec::FailureClass::kBadData] = job.retry.at(spec::FailureClass::kCrash);
  ASSERT_TRUE(service_.Cancel(id_).ok());
  service_.Exit(a_, Id(), 0, 0, 15);
  service_.Exit(b_, Id(), 1, 0, 15);
  id_ = service_.Submit(job, "other request");
  service_.RunAttempt(id_, "make", {a_, b_});
  const std::string node = Stage().ranks(0).node_id();
  for (int i = 0; i < 2; ++i) {
    const auto leases = Lease(0, node, 2);
    ASSERT_EQ(leases->leases_size(), 2);
    for (const auto& lease : leases->leases()) ASSERT_TRUE(FailOnce(lease.shard(), lease.lease_id(), node).ok());
  }
  ASSERT_EQ(Lease(0, node, 2)->leases_size(), 2);
  service_.Exit(node == "a" ? a_ : b_, Id(), 0, 0, 11);
  EXPECT_EQ(Stage().restarts(), 1);
  const auto kinds = service_.event_kinds();
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "shard.poisoned"), 2);
  const auto shards = service_.rows().find(std::string(kShardFamily));
  EXPECT_TRUE(shards == service_.rows().end() || shards->second.empty()) << "they have a new chance";
}

TEST_F(PoolAttempt, StaleFencesAreRefused) {
  EXPECT_EQ(Commit(0, 1, 7).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Lease(0, "b").status().code(), absl::StatusCode::kFailedPrecondition) << "rank 0 is on another worker";
}

TEST_F(PoolAttempt, ALeaseServesOnlyTheWorkerItWasGivenTo) {
  const auto lease = Lease(0, "a");
  ASSERT_EQ(lease->leases_size(), 1);
  const uint32_t shard = lease->leases(0).shard();
  const uint64_t id = lease->leases(0).lease_id();
  EXPECT_TRUE(absl::IsPermissionDenied(Commit(shard, id, 0, "b")));
  EXPECT_TRUE(absl::IsPermissionDenied(FailOnce(shard, id, "b")));
  EXPECT_TRUE(absl::IsPermissionDenied(Commit(shard, id, 0, "stranger")));
  EXPECT_TRUE(absl::IsPermissionDenied(Commit(shard, 0))) << "no lease";
  EXPECT_TRUE(absl::IsPermissionDenied(Commit(shard, 1'000'000'000))) << "an invented lease";
  EXPECT_EQ(Commit(shard, id, 2).code(), absl::StatusCode::kFailedPrecondition) << "another attempt";
  EXPECT_EQ(Stage().progress().done(), 0u);
  EXPECT_TRUE(Commit(shard, id).ok());
  EXPECT_EQ(Stage().progress().done(), 1u);
}

TEST_F(PoolAttempt, ABeatDoesNotRenewTheLeaseOfAnotherWorker) {
  const auto lease = Lease(0, "a");
  v1::SessionRequest beat;
  v1::HeldShard* held = beat.mutable_beat()->add_shards();
  held->set_stage_uid(Stage().stage_uid());
  held->set_fence(1);
  held->set_shard(lease->leases(0).shard());
  held->set_lease_id(lease->leases(0).lease_id());
  // Both workers beat through the lease's time; only b names the lease, which is a's.
  for (absl::Duration waited; waited <= ServiceHarness::Options().shard_lease; waited += absl::Seconds(1)) {
    for (int32_t rank = 0; rank < 2; ++rank) {  // alive, and at work
      v1::RankBeat alive;
      alive.set_attempt_id(Id());
      alive.set_rank(rank);
      alive.set_phase(v1::RANK_PHASE_STEP);
      alive.set_counter(static_cast<uint64_t>(absl::ToInt64Seconds(waited)) + 1);
      service_.Beat(rank == 0 ? a_ : b_, {alive});
    }
    service_.Say(b_, beat);
    service_.Advance(absl::Seconds(1));
  }
  EXPECT_EQ(Lease(1, "b")->leases(0).shard(), lease->leases(0).shard()) << "it has run out";
}

TEST_F(PoolAttempt, AStallOfOursTakesNoLease) {
  DoShards(2);
  const auto last = Lease(0, "a");
  ASSERT_EQ(last->leases_size(), 1);
  service_.Jump(2 * ServiceHarness::Options().shard_lease);
  service_.Advance(absl::Seconds(1));
  EXPECT_TRUE(Lease(1, "b")->leases().empty()) << "the shard is still being worked on";
  ASSERT_TRUE(Commit(last->leases(0).shard(), last->leases(0).lease_id()).ok());
  ASSERT_EQ(Lease(1, "b")->leases_size(), 1) << "the finish task";
  service_.Jump(2 * ServiceHarness::Options().shard_lease);
  service_.Advance(absl::Seconds(1));
  EXPECT_EQ(Stage().attempt_state(), v1::ATTEMPT_STATE_RUNNING) << "nobody could renew the finish task's lease";
  EXPECT_EQ(Stage().restarts(), 0);
}

TEST_F(PoolAttempt, ALateCommitCountsWhenNobodyWasFaster) {
  const auto lease = Lease(0, "a");
  service_.Exit(a_, Id(), 0, 70, 0, "boom");
  EXPECT_TRUE(Commit(lease->leases(0).shard(), lease->leases(0).lease_id()).ok()) << "of a rank that is gone";
}

TEST_F(PoolAttempt, ARestartKeepsRowsAndLetsWorkersAnnounceTheirLeases) {
  DoShards(1);
  const auto lease = Lease(1, "b");
  ASSERT_EQ(lease->leases_size(), 1);
  const std::string attempt = Id();
  service_.Restart();
  const auto hello = [&](const std::string& node, int32_t rank) {
    v1::Hello hello = service_.Hello(node);
    v1::HeldRank* held = hello.add_held();
    held->set_attempt_id(attempt);
    held->set_rank(rank);
    held->set_phase(v1::RANK_PHASE_STEP);
    return hello;
  };
  a_ = service_.Connect(hello("a", 0));
  EXPECT_TRUE(Lease(0, "a")->leases().empty()) << "the other worker may hold any shard";
  v1::Hello other = hello("b", 1);
  v1::HeldShard* shard = other.add_shards();
  shard->set_stage_uid(Stage().stage_uid());
  shard->set_fence(1);
  shard->set_shard(lease->leases(0).shard());
  shard->set_lease_id(lease->leases(0).lease_id());
  b_ = service_.Connect(other);
  const auto next = Lease(0, "a", 16);
  ASSERT_EQ(next->leases_size(), 1);
  EXPECT_NE(next->leases(0).shard(), lease->leases(0).shard());
  EXPECT_GT(next->leases(0).lease_id(), lease->leases(0).lease_id()) << "ids are never used twice";
  EXPECT_TRUE(absl::IsPermissionDenied(Commit(lease->leases(0).shard(), lease->leases(0).lease_id(), 0, "a")))
      << "the lease was announced by the other worker";
  EXPECT_TRUE(Commit(lease->leases(0).shard(), lease->leases(0).lease_id(), 0, "b").ok());
}

TEST_F(PoolAttempt, OnlyPoolsHaveShards) {
  const std::string gang = service_.Submit(ServiceHarness::Job({ServiceHarness::Gang("train")}), "gang");
  LeaseShards input{1, "a", {}};
  input.request.set_stage_uid(service_.StageView(gang, "train").stage_uid());
  EXPECT_EQ(service_.Call(input, 1).status.code(), absl::StatusCode::kInvalidArgument);
  ListShards list{2, "a", {}};
  list.request.set_stage_uid(Stage().stage_uid());
  list.request.set_fence(1);
  EXPECT_EQ(service_.Call(list, 2).status.code(), absl::StatusCode::kFailedPrecondition) << "not all are done";
}

}  // namespace
}  // namespace vlm::coordinator
