#include "coordinator/core/shard_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/utf8.h"
#include "coordinator/core/options.h"

namespace vlm::coordinator {

bool ShardTable::IsDone(uint32_t shard) const {
  const v1::ShardRecord* record = row(shard);
  return record != nullptr && !record->poisoned();
}

const v1::ShardRecord* ShardTable::row(uint32_t shard) const {
  const auto it = rows_.find(shard);
  return it == rows_.end() ? nullptr : &it->second;
}

uint32_t ShardTable::done() const {
  uint32_t count = 0;
  for (const auto& [shard, record] : rows_) count += shard < shards_ && !record.poisoned();
  return count;
}

uint32_t ShardTable::open() const {
  uint32_t count = 0;
  for (uint32_t shard = 0; shard < shards_; ++shard) count += !rows_.contains(shard) && !leases_.contains(shard);
  return count;
}

bool ShardTable::finished() const { return IsDone(shards_); }

bool ShardTable::poisoned() const {
  for (const auto& [shard, record] : rows_) {
    if (record.poisoned()) return true;
  }
  return false;
}

std::vector<v1::LeaseShardsResponse::Lease> ShardTable::Take(int32_t rank, uint32_t count, absl::Duration until,
                                                             const std::function<uint64_t()>& new_lease_id) {
  std::vector<v1::LeaseShardsResponse::Lease> taken;
  const bool finish = done() == shards_;
  const uint32_t first = finish ? shards_ : 0;
  const uint32_t last = finish ? shards_ + 1 : shards_;
  for (uint32_t shard = first; shard < last && taken.size() < count; ++shard) {
    if (rows_.contains(shard) || leases_.contains(shard)) continue;
    const Lease lease{new_lease_id(), rank, "", until};
    leases_[shard] = lease;
    v1::LeaseShardsResponse::Lease answer;
    answer.set_shard(shard);
    answer.set_lease_id(lease.lease_id);
    answer.set_finish(finish);
    taken.push_back(answer);
  }
  return taken;
}

absl::Status ShardTable::Commit(const v1::CommitShardRequest& request, bool* changed) {
  *changed = false;
  const uint32_t shard = request.shard();
  if (shard > shards_) {
    return absl::InvalidArgumentError(absl::StrCat("no such shard; this stage has ", shards_, ", asked for ", shard));
  }
  if (const v1::ShardRecord* record = row(shard); record != nullptr && !record->poisoned()) {
    if (record->lease_id() == request.lease_id()) return absl::OkStatus();
    return absl::AlreadyExistsError(absl::StrCat("another lease has committed this shard; remove your file: shard ",
                                                 shard, ", lease ", record->lease_id()));
  }
  if (shard == shards_ && done() != shards_) {
    return absl::FailedPreconditionError(
        absl::StrCat("the finish task cannot be committed before every shard; done: ", done(), " of ", shards_));
  }
  v1::ShardRecord record;
  record.set_lease_id(request.lease_id());
  record.set_fence(request.fence());
  *record.mutable_output() = request.output();
  rows_[shard] = std::move(record);
  leases_.erase(shard);
  tries_.erase(shard);
  *changed = true;
  return absl::OkStatus();
}

bool ShardTable::Fail(uint32_t shard, uint64_t lease_id, const std::string& error) {
  const auto lease = leases_.find(shard);
  if (lease == leases_.end() || lease->second.lease_id != lease_id) return false;
  leases_.erase(lease);
  if (rows_.contains(shard) || ++tries_[shard] < kShardTriesMax) return false;
  v1::ShardRecord record;
  record.set_poisoned(true);
  record.set_tries(tries_[shard]);
  record.set_error(CutUtf8(error, kMessageBytesMax));
  rows_[shard] = std::move(record);
  return true;
}

std::vector<uint32_t> ShardTable::EndRank(int32_t rank, bool blame, const std::string& error) {
  std::vector<std::pair<uint32_t, uint64_t>> held;
  for (const auto& [shard, lease] : leases_) {
    if (lease.rank == rank) held.emplace_back(shard, lease.lease_id);
  }
  std::vector<uint32_t> poisoned;
  for (const auto& [shard, lease_id] : held) {
    if (!blame) {
      leases_.erase(shard);
    } else if (Fail(shard, lease_id, error)) {
      poisoned.push_back(shard);
    }
  }
  return poisoned;
}

void ShardTable::Hold(uint32_t shard, uint64_t lease_id, const std::string& node_id, absl::Duration until) {
  if (shard > shards_ || rows_.contains(shard)) return;
  const auto [it, added] = leases_.try_emplace(shard, Lease{lease_id, -1, node_id, until});
  if (!added && it->second.lease_id == lease_id) it->second.until = until;
}

void ShardTable::ExtendLeases(absl::Duration until) {
  for (auto& [shard, lease] : leases_) lease.until = std::max(lease.until, until);
}

bool ShardTable::Expire(absl::Duration now) {
  const bool finish_was_held = leases_.contains(shards_);
  std::erase_if(leases_, [now](const auto& entry) { return entry.second.until <= now; });
  return finish_was_held && !leases_.contains(shards_);
}

bool ShardTable::HoldsFinish(int32_t rank) const {
  const auto lease = leases_.find(shards_);
  return lease != leases_.end() && lease->second.rank == rank;
}

std::vector<uint32_t> ShardTable::ForgetPoisoned() {
  std::vector<uint32_t> forgotten;
  for (const auto& [shard, record] : rows_) {
    if (record.poisoned()) forgotten.push_back(shard);
  }
  for (const uint32_t shard : forgotten) {
    rows_.erase(shard);
    tries_.erase(shard);
  }
  return forgotten;
}

std::vector<v1::ShardOutput> ShardTable::Winners() const {
  VLM_CHECK(done() == shards_, "winners are asked for before every shard is done");
  std::vector<v1::ShardOutput> outputs;
  for (uint32_t shard = 0; shard < shards_; ++shard) outputs.push_back(rows_.at(shard).output());
  return outputs;
}

}  // namespace vlm::coordinator
