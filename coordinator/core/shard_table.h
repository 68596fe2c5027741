// The shards of one pool stage: who works on which, and which are done.
//
// Leases live in memory and only avoid double work; a row gives exactly-once.
#ifndef VLM_COORDINATOR_CORE_SHARD_TABLE_H_
#define VLM_COORDINATOR_CORE_SHARD_TABLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "vlm/v1/data.pb.h"
#include "vlm/v1/record.pb.h"

namespace vlm::coordinator {

class ShardTable {
 public:
  struct Lease {
    uint64_t lease_id = 0;
    int32_t rank = -1;    // -1: announced by a worker after our restart
    std::string node_id;  // of that worker; empty: the rank's record says
    absl::Duration until;
  };

  ShardTable() = default;
  // `shards` without the finish task, which has the number `shards`.
  explicit ShardTable(uint32_t shards) : shards_(shards) {}

  void SetCount(uint32_t shards) { shards_ = shards; }
  void Restore(uint32_t shard, v1::ShardRecord record) { rows_[shard] = std::move(record); }

  // At most `count` open shards to `rank`; when every shard is DONE, the finish task, alone.
  std::vector<v1::LeaseShardsResponse::Lease> Take(int32_t rank, uint32_t count, absl::Duration until,
                                                   const std::function<uint64_t()>& new_lease_id);
  // OK and `*changed` when the row was written now; OK without for a repeat with the same lease; ALREADY_EXISTS
  // when another lease won; INVALID_ARGUMENT for no such shard; FAILED_PRECONDITION for a finish task while a
  // shard is not DONE.
  absl::Status Commit(const v1::CommitShardRequest& request, bool* changed);
  // Counts a try; true when the shard is POISONED now (its row was written). Ignores a lease that is not held.
  bool Fail(uint32_t shard, uint64_t lease_id, const std::string& error);
  // A rank died with these leases: as Fail when it is to blame, else they are open again. Answers the poisoned.
  std::vector<uint32_t> EndRank(int32_t rank, bool blame, const std::string& error);
  // Keeps a lease that a worker says it holds: renewed, or known again after our restart.
  void Hold(uint32_t shard, uint64_t lease_id, const std::string& node_id, absl::Duration until);
  // No lease that is held ends before `until`.
  void ExtendLeases(absl::Duration until);
  // Leases that were not renewed are open again. True when the finish task's was among them.
  bool Expire(absl::Duration now);
  bool HoldsFinish(int32_t rank) const;
  void Drop(uint32_t shard) { leases_.erase(shard); }
  void DropLeases() { leases_.clear(); }
  // Answers the numbers whose rows are gone: poisoned shards get a new chance.
  std::vector<uint32_t> ForgetPoisoned();
  // The finish task's row is gone; true when there was one.
  bool ForgetFinish() { return rows_.erase(shards_) > 0; }

  uint32_t shards() const { return shards_; }
  uint32_t done() const;  // shards, the finish task not counted
  uint32_t open() const;  // shards, the finish task not counted, without a row and without a lease
  bool finished() const;  // the finish task is DONE
  bool poisoned() const;
  const v1::ShardRecord* row(uint32_t shard) const;
  const std::map<uint32_t, Lease>& leases() const { return leases_; }
  // The winners in shard order; requires done() == shards().
  std::vector<v1::ShardOutput> Winners() const;

 private:
  bool IsDone(uint32_t shard) const;

  uint32_t shards_ = 0;
  std::map<uint32_t, v1::ShardRecord> rows_;
  std::map<uint32_t, Lease> leases_;
  std::map<uint32_t, uint32_t> tries_;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_SHARD_TABLE_H_
