// The calls of a pool's ranks: DataService.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "base/utf8.h"
#include "coordinator/core/core.h"

namespace vlm::coordinator {
namespace {

constexpr uint32_t kAskAgainMs = 500;

absl::Status NotCurrent(uint64_t fence) {
  return absl::FailedPreconditionError(absl::StrCat("this attempt is over; exit; fence ", fence));
}

}  // namespace

absl::StatusOr<Stage*> Coordinator::Core::FindPool(const std::string& stage_uid, uint64_t fence) {
  const auto it = ledger_.stages.find(stage_uid);
  if (it == ledger_.stages.end()) return absl::NotFoundError("no such stage");
  Stage* stage = it->second;
  if (!stage->record.pool()) {
    return absl::InvalidArgumentError(
        absl::StrCat("only pools have shards; stage ", stage->record.name(), " is ", stage->record.kind()));
  }
  if (stage->record.fence() != fence || !stage->attempt.has_value() || stage->attempt->record.fence() != fence ||
      stage->record.state() != v1::STAGE_STATE_ACTIVE) {
    return NotCurrent(fence);
  }
  return stage;
}

absl::Status Coordinator::Core::CheckNode(const Stage& stage, const std::string& node_id) const {
  const auto& ranks = stage.attempt->record.ranks();
  if (std::any_of(ranks.begin(), ranks.end(), [&](const v1::RankRecord& rank) { return rank.node_id() == node_id; })) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat("this worker has no rank in the stage's attempt: ", node_id));
}

// A lease that has run out names no holder any more: then any worker of the attempt may still commit, and the row
// decides who was first.
absl::Status Coordinator::Core::CheckHolder(const Stage& stage, const std::string& node_id, uint32_t shard,
                                            uint64_t lease_id) const {
  VLM_RETURN_IF_ERROR(CheckNode(stage, node_id));
  if (lease_id == 0 || lease_id > ledger_.meta.lease_ids()) {
    return absl::PermissionDeniedError(absl::StrCat("no such lease was ever given: ", lease_id));
  }
  const auto held = stage.shards.leases().find(shard);
  if (held == stage.shards.leases().end() || held->second.lease_id != lease_id) return absl::OkStatus();
  std::string holder = held->second.node_id;
  for (const v1::RankRecord& rank : stage.attempt->record.ranks()) {
    if (rank.rank() == held->second.rank) holder = rank.node_id();
  }
  if (holder == node_id) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("the shard is leased to a rank of another worker; shard ", shard, ", lease ", lease_id));
}

void Coordinator::Core::StoreShard(const Stage& stage, uint32_t shard) {
  ledger_.Put(kShardFamily, ShardKey(stage.record.stage_uid(), shard), stage.shards.row(shard)->SerializeAsString());
}

void Coordinator::Core::On(const LeaseShards& input) {
  const v1::LeaseShardsRequest& request = input.request;
  const absl::StatusOr<Stage*> found = FindPool(request.stage_uid(), request.fence());
  if (!found.ok()) {
    ledger_.Answer({input.call, found.status(), {}});
    return;
  }
  Stage* stage = *found;
  const v1::AttemptState state = stage->attempt->record.state();
  const v1::RankRecord* rank = FindRank(stage, request.rank());
  const bool live = state == v1::ATTEMPT_STATE_STARTING || state == v1::ATTEMPT_STATE_RUNNING;
  if (!live || rank == nullptr || rank->ended() || rank->node_id() != input.node_id) {
    ledger_.Answer({input.call, NotCurrent(request.fence()), {}});
    return;
  }
  // An idle rank that asks is alive.
  LiveRank& beats = stage->attempt->live[request.rank()];
  beats.beat_at = beats.moved_at = now();
  v1::LeaseShardsResponse response;
  const bool reattaching = std::any_of(
      stage->attempt->record.ranks().begin(), stage->attempt->record.ranks().end(), [&](const v1::RankRecord& other) {
        return !other.ended() && workers_.Find(other.node_id())->state == v1::NODE_STATE_UNKNOWN;
      });
  if (stage->shards.finished()) {
    response.set_done(true);
  } else if (reattaching) {
    response.set_retry_ms(kAskAgainMs);  // a rank we do not hear yet may hold any of them
  } else {
    const uint32_t open = stage->shards.shards() - stage->shards.done();
    const uint32_t share = (open + stage->attempt->record.world() - 1) / stage->attempt->record.world();
    const uint32_t count =
        std::clamp<uint32_t>(std::min(request.count(), std::max<uint32_t>(1, share)), 1, kShardsPerLeaseMax);
    for (auto& lease : stage->shards.Take(request.rank(), count, now() + options_.shard_lease,
                                          [this] { return ledger_.NewLeaseId(); })) {
      *response.add_leases() = std::move(lease);
    }
    if (response.leases().empty()) response.set_retry_ms(kAskAgainMs);
  }
  ledger_.Answer({input.call, absl::OkStatus(), std::move(response)});
}

void Coordinator::Core::On(const CommitShard& input) {
  const v1::CommitShardRequest& request = input.request;
  const absl::StatusOr<Stage*> found = FindPool(request.stage_uid(), request.fence());
  const absl::Status allowed =
      found.ok() ? CheckHolder(**found, input.node_id, request.shard(), request.lease_id()) : found.status();
  if (!allowed.ok()) {
    ledger_.Answer({input.call, allowed, {}});
    return;
  }
  Stage* stage = *found;
  bool changed = false;
  const absl::Status status = stage->shards.Commit(request, &changed);
  if (changed) {
    StoreShard(*stage, request.shard());
    stage->record.set_committed_since(true);
    ledger_.Touch(*stage);
    if (stage->shards.finished()) {
      ledger_.Event(stage->job, stage, "shard.finished", absl::StrCat(stage->shards.shards(), " shards are done"));
      FinishIfReaped(stage);
    }
  }
  if (!status.ok()) {
    ledger_.Answer({input.call, status, {}});
    return;
  }
  ledger_.Answer({input.call, absl::OkStatus(), v1::CommitShardResponse()});
}

void Coordinator::Core::On(const FailShard& input) {
  const v1::FailShardRequest& request = input.request;
  const absl::StatusOr<Stage*> found = FindPool(request.stage_uid(), request.fence());
  const absl::Status allowed =
      found.ok() ? CheckHolder(**found, input.node_id, request.shard(), request.lease_id()) : found.status();
  if (!allowed.ok()) {
    ledger_.Answer({input.call, allowed, {}});
    return;
  }
  Stage* stage = *found;
  const auto lease = stage->shards.leases().find(request.shard());
  const bool held = lease != stage->shards.leases().end() && lease->second.lease_id == request.lease_id();
  if (held && request.shard() == stage->shards.shards()) {
    // As when its rank dies: the next try needs a new fence, and the retry budget bounds the tries.
    const std::string message = absl::StrCat("the finish task failed: ", CutUtf8(request.error(), kMessageBytesMax));
    stage->shards.Drop(request.shard());
    BlameRank(stage, {v1::FAILURE_CLASS_CRASH, now(), absl::ZeroDuration(), -1, message});
    StopAttempt(stage, v1::STOP_CAUSE_FAILURE, message);
  } else if (stage->shards.Fail(request.shard(), request.lease_id(), request.error())) {
    StopPoisoned(stage, {request.shard()});
  }
  ledger_.Answer({input.call, absl::OkStatus(), v1::FailShardResponse()});
}

void Coordinator::Core::StopPoisoned(Stage* stage, const std::vector<uint32_t>& shards) {
  std::string first;
  for (const uint32_t shard : shards) {
    StoreShard(*stage, shard);
    const std::string& error = stage->shards.row(shard)->error();
    const std::string message = absl::StrCat("shard ", shard, " failed ", kShardTriesMax, " times: ", error);
    ledger_.Event(stage->job, stage, "shard.poisoned", message);
    BlameRank(stage, {v1::FAILURE_CLASS_BAD_DATA, now(), absl::ZeroDuration(), -1, message});
    if (first.empty()) first = message;
  }
  // Last: it may end the attempt, and a stage that is tried again forgets its poisoned rows.
  if (!shards.empty()) StopAttempt(stage, v1::STOP_CAUSE_FAILURE, first);
}

void Coordinator::Core::On(const ListShards& input) {
  const v1::ListShardsRequest& request = input.request;
  const absl::StatusOr<Stage*> found = FindPool(request.stage_uid(), request.fence());
  absl::Status status = found.ok() ? CheckNode(**found, input.node_id) : found.status();
  if (status.ok() && (*found)->shards.done() != (*found)->shards.shards()) {
    status = absl::FailedPreconditionError(absl::StrCat(
        "shards are listed when all are done; done: ", (*found)->shards.done(), " of ", (*found)->shards.shards()));
  }
  if (!status.ok()) {
    ledger_.Answer({input.call, std::move(status), {}});
    return;
  }
  v1::ListShardsResponse response;
  for (auto& output : (*found)->shards.Winners()) *response.add_outputs() = std::move(output);
  ledger_.Answer({input.call, absl::OkStatus(), std::move(response)});
}

}  // namespace vlm::coordinator
