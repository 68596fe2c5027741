#include "coordinator/core/shard_table.h"

#include <gtest/gtest.h>

#include <map>

#include "base/random.h"

namespace vlm::coordinator {
namespace {

v1::CommitShardRequest Commit(uint32_t shard, uint64_t lease) {
  v1::CommitShardRequest request;
  request.set_shard(shard);
  request.set_lease_id(lease);
  request.mutable_output()->set_file("shard-" + std::to_string(shard) + ".l" + std::to_string(lease));
  return request;
}

class ShardTableTest : public testing::Test {
 protected:
  std::vector<v1::LeaseShardsResponse::Lease> Take(ShardTable* table, int32_t rank, uint32_t count,
                                                   absl::Duration until = absl::Seconds(30)) {
    return table->Take(rank, count, until, [this] { return ++next_; });
  }
  absl::Status CommitOk(ShardTable* table, uint32_t shard, uint64_t lease) {
    bool changed = false;
    return table->Commit(Commit(shard, lease), &changed);
  }
  uint64_t next_ = 0;
};

TEST_F(ShardTableTest, TheFinishTaskComesAfterEveryShardAndAlone) {
  ShardTable table(2);
  const auto leases = Take(&table, 0, 16);
  ASSERT_EQ(leases.size(), 2u);
  EXPECT_TRUE(Take(&table, 1, 16).empty());
  EXPECT_TRUE(CommitOk(&table, 0, leases[0].lease_id()).ok());
  EXPECT_TRUE(Take(&table, 1, 16).empty());
  EXPECT_TRUE(CommitOk(&table, 1, leases[1].lease_id()).ok());
  const auto finish = Take(&table, 1, 16);
  ASSERT_EQ(finish.size(), 1u);
  EXPECT_EQ(finish[0].shard(), 2u);
  EXPECT_TRUE(finish[0].finish());
  EXPECT_TRUE(table.HoldsFinish(1));
  EXPECT_TRUE(CommitOk(&table, 2, finish[0].lease_id()).ok());
  EXPECT_TRUE(table.finished());
}

TEST_F(ShardTableTest, TheRowGivesExactlyOnceWhateverTheLease) {
  ShardTable table(1);
  const uint64_t first = Take(&table, 0, 1, absl::Seconds(1))[0].lease_id();
  table.Expire(absl::Seconds(1));
  const uint64_t second = Take(&table, 1, 1)[0].lease_id();
  EXPECT_NE(first, second);
  EXPECT_TRUE(CommitOk(&table, 0, first).ok()) << "a late commit wins when nobody was faster";
  EXPECT_TRUE(CommitOk(&table, 0, first).ok()) << "a repeat gets the same answer";
  EXPECT_EQ(CommitOk(&table, 0, second).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(table.Winners()[0].file(), "shard-0.l" + std::to_string(first));
}

TEST_F(ShardTableTest, TheFinishTaskCannotBeCommittedEarly) {
  ShardTable table(1);
  EXPECT_EQ(CommitOk(&table, 1, 7).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CommitOk(&table, 2, 7).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ShardTableTest, ThreeFailedLeasesPoisonAShard) {
  ShardTable table(1);
  EXPECT_FALSE(table.Fail(0, Take(&table, 0, 1)[0].lease_id(), "bad"));
  EXPECT_EQ(table.EndRank(0, /*blame=*/true, "crash").size(), 0u) << "it held nothing any more";
  Take(&table, 0, 1);
  EXPECT_TRUE(table.EndRank(0, /*blame=*/true, "crash").empty());
  EXPECT_TRUE(table.Fail(0, Take(&table, 0, 1)[0].lease_id(), "bad again"));
  EXPECT_TRUE(table.poisoned());
  EXPECT_TRUE(Take(&table, 0, 1).empty());
  EXPECT_EQ(table.ForgetPoisoned(), std::vector<uint32_t>{0});
  EXPECT_EQ(Take(&table, 0, 1).size(), 1u);
}

TEST_F(ShardTableTest, AFailureOfAnotherLeaseIsNotCounted) {
  ShardTable table(1);
  const uint64_t old = Take(&table, 0, 1, absl::Seconds(1))[0].lease_id();
  EXPECT_FALSE(table.Fail(1, old, "of a shard that nobody holds"));
  table.Expire(absl::Seconds(1));
  const uint64_t held = Take(&table, 1, 1)[0].lease_id();
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(table.Fail(0, old, "late"));
  EXPECT_FALSE(table.poisoned());
  EXPECT_TRUE(Take(&table, 0, 1).empty()) << "the second holds it";
  EXPECT_TRUE(CommitOk(&table, 0, held).ok());
}

TEST_F(ShardTableTest, ALateCommitHealsAPoisonedShard) {
  ShardTable table(1);
  const uint64_t first = Take(&table, 0, 1, absl::Seconds(1))[0].lease_id();
  table.Expire(absl::Seconds(1));
  for (int i = 0; i < 3; ++i) table.Fail(0, Take(&table, 1, 1)[0].lease_id(), "bad");
  ASSERT_TRUE(table.poisoned());
  EXPECT_TRUE(CommitOk(&table, 0, first).ok());
  EXPECT_FALSE(table.poisoned());
  EXPECT_EQ(table.done(), 1u);
}

TEST_F(ShardTableTest, AHeldLeaseIsRenewedOnlyByItsOwnNumberAndWhileItIsOpen) {
  ShardTable table(2);
  const auto leases = Take(&table, 0, 2, absl::Seconds(10));
  table.Hold(0, leases[0].lease_id() + 100, "b", absl::Seconds(60));
  table.Hold(3, 500, "b", absl::Seconds(60));  // beyond the finish task
  ASSERT_TRUE(CommitOk(&table, 1, leases[1].lease_id()).ok());
  table.Hold(1, leases[1].lease_id(), "a", absl::Seconds(60));
  EXPECT_TRUE(table.leases().contains(0));
  EXPECT_FALSE(table.leases().contains(1)) << "done";
  EXPECT_FALSE(table.leases().contains(3));
  table.Expire(absl::Seconds(10));
  EXPECT_FALSE(table.leases().contains(0));
}

TEST_F(ShardTableTest, ALostWorkerGivesItsShardsBackWithoutBlame) {
  ShardTable table(1);
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(Take(&table, 0, 1).size(), 1u);
    EXPECT_TRUE(table.EndRank(0, /*blame=*/false, "").empty());
  }
  EXPECT_FALSE(table.poisoned());
}

TEST_F(ShardTableTest, RenewedLeasesDoNotExpire) {
  ShardTable table(2);
  const auto leases = Take(&table, 0, 2, absl::Seconds(10));
  table.Hold(0, leases[0].lease_id(), "a", absl::Seconds(20));
  table.Expire(absl::Seconds(15));
  const auto again = Take(&table, 1, 2);
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].shard(), 1u);
}

TEST_F(ShardTableTest, ALeaseFromBeforeARestartIsKnownAgain) {
  ShardTable table(1);
  table.Hold(0, 77, "a", absl::Seconds(30));
  EXPECT_TRUE(Take(&table, 0, 1).empty());
  EXPECT_TRUE(CommitOk(&table, 0, 77).ok());
}

// Duplicate, late and lost commits in any order: every shard has one winner, and each who was told OK is it.
TEST_F(ShardTableTest, TenThousandSeedsOfDisorder) {
  for (uint64_t seed = 0; seed < 10'000; ++seed) {
    Rng rng(RngKey{seed});
    ShardTable table(1 + static_cast<uint32_t>(rng.Below(6)));
    std::vector<std::pair<uint32_t, uint64_t>> handed;
    std::map<uint32_t, uint64_t> told;
    absl::Duration now;
    for (int i = 0; !table.finished(); ++i) {
      ASSERT_LT(i, 10'000) << "seed " << seed;
      now += absl::Seconds(1);
      if (rng.Below(4) == 0) table.Expire(now);
      if (rng.Below(8) == 0) table.DropLeases();  // a restart
      for (const auto& lease : Take(&table, static_cast<int32_t>(rng.Below(3)), 1 + static_cast<uint32_t>(rng.Below(3)),
                                    now + absl::Seconds(static_cast<int64_t>(rng.Below(5))))) {
        handed.emplace_back(lease.shard(), lease.lease_id());
      }
      if (handed.empty()) continue;
      const auto& [shard, lease] = handed[rng.Below(handed.size())];  // in order, late or once more
      bool changed = false;
      if (!table.Commit(Commit(shard, lease), &changed).ok()) continue;
      const auto [it, first] = told.emplace(shard, lease);
      ASSERT_EQ(it->second, lease) << "seed " << seed << ", shard " << shard;
    }
    ASSERT_EQ(told.size(), table.shards() + 1) << "seed " << seed;
    for (uint32_t shard = 0; shard < table.shards(); ++shard) {
      ASSERT_EQ(table.row(shard)->lease_id(), told.at(shard)) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace vlm::coordinator
