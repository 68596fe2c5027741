// The ranks held: assigned, spawned, relayed to, stopped, reaped, reported.
#include <algorithm>
#include <csignal>
#include <utility>

#include "base/utf8.h"
#include "worker/core/worker_core.h"

namespace vlm::worker {
namespace {

constexpr int kExitIncompatible = 78;
constexpr int kExitCrash = 70;

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

bool SameDevice(const v1::Device& a, const v1::Device& b) {
  return a.kind() == b.kind() && a.index() == b.index() && a.uuid() == b.uuid();
}

bool SameShard(const v1::HeldShard& a, const v1::HeldShard& b) {
  return a.stage_uid() == b.stage_uid() && a.fence() == b.fence() && a.shard() == b.shard() &&
         a.lease_id() == b.lease_id();
}

std::string StageOf(const std::string& attempt_id) { return attempt_id.substr(0, attempt_id.find('/')); }

std::string Subject(const RankKey& key) { return "rank " + key.ToString() + " " + std::to_string(key.fence) + ":"; }

}  // namespace

HeldRank* Worker::Core::Find(const RankKey& key) {
  const auto it = ranks_.find(key);
  return it == ranks_.end() ? nullptr : &it->second;
}

void Worker::Core::OnAssign(const v1::Assign& assign) {
  if (shutting_down_) return;  // the coordinator learns of the end by the session's
  for (auto& [key, rank] : ranks_) {
    if (StageOf(key.attempt_id) != StageOf(assign.attempt_id())) continue;
    if (key.fence > assign.fence()) {
      Out(Note{"ignoring Assign of " + assign.attempt_id() + ": a newer attempt of its stage runs here"});
      return;
    }
    if (key.fence < assign.fence()) End(&rank, Ending::kSuperseded, absl::ZeroDuration());
  }
  for (const v1::RankSlot& slot : assign.ranks()) AssignRank(assign, slot);
}

void Worker::Core::AssignRank(const v1::Assign& assign, const v1::RankSlot& slot) {
  const RankKey key{assign.attempt_id(), assign.fence(), slot.rank()};
  if (ranks_.contains(key) || results_.contains(key)) return;  // runs already, or has ended: the result says so
  HeldRank& rank = ranks_[key];
  rank.key = key;
  rank.spec = assign.spec();
  rank.world = assign.world();
  rank.secret = assign.secret();
  const auto& devices = options_.identity.devices();
  const auto device = std::find_if(devices.begin(), devices.end(),
                                   [&](const v1::Device& offered) { return SameDevice(offered, slot.device()); });
  if (device == devices.end()) {
    Finished(&rank, {.exit_code = kExitIncompatible},
             "the worker does not offer the device it was assigned: index " + std::to_string(slot.device().index()));
    return;
  }
  rank.device = *device;
}

void Worker::Core::SpawnWaiting() {
  for (auto& [key, rank] : ranks_) {
    if (rank.spawning || rank.pid != 0 || rank.reaped || rank.ending != Ending::kNone) continue;
    const bool taken = std::any_of(ranks_.begin(), ranks_.end(), [&, &key = key, &rank = rank](const auto& other) {
      return other.first != key && other.second.runs() && SameDevice(other.second.device, rank.device);
    });
    if (taken) continue;  // until the rank before it is reaped
    rank.spawning = true;
    Out(SpawnRank{key, rank.device, rank.spec});
  }
}

void Worker::Core::OnRendezvous(const v1::Rendezvous& rendezvous) {
  for (auto& [key, rank] : ranks_) {
    if (key.attempt_id != rendezvous.attempt_id() || key.fence != rendezvous.fence()) continue;
    if (rank.rendezvous) continue;  // again, after a restart of the coordinator: the rank has its peers
    rank.rendezvous = rendezvous;
    if (!rank.attached) continue;  // sent after its hello
    v1::AttachResponse message;
    *message.mutable_rendezvous() = rendezvous;
    Out(SendToTrainer{key, std::move(message)});
  }
}

void Worker::Core::OnStop(const v1::Stop& stop) {
  const absl::Duration grace = stop.has_grace() ? FromProto(stop.grace()) : options_.stop_grace;
  for (auto& [key, rank] : ranks_) {
    if (key.attempt_id != stop.attempt_id() || key.fence != stop.fence()) continue;
    const auto& named = stop.ranks();
    if (!named.empty() && std::find(named.begin(), named.end(), key.rank) == named.end()) continue;
    if (rank.ending == Ending::kNone) {
      Out(Note{"stopping " + key.ToString() + ": " + v1::StopCause_Name(stop.cause())});
    }
    End(&rank, Ending::kOrdered, grace);
  }
}

void Worker::Core::End(HeldRank* rank, Ending ending, absl::Duration grace) {
  if (rank->reaped) return;
  const bool first = rank->ending == Ending::kNone;
  if (first) rank->ending = ending;
  // Welcome's verdict must be seen through before anything is reported, whatever the first reason was.
  if (ending == Ending::kSuperseded) rank->ending = ending;
  if (!rank->runs()) {
    Finished(rank, {.signal = SIGTERM, .ending = rank->ending}, "it was stopped before its process was started");
    return;
  }
  rank->kill_at = std::min(rank->kill_at, now_ + grace);
  if (rank->pid != 0 && first && grace > absl::ZeroDuration()) Out(SignalRank{rank->key, rank->pid, SIGTERM});
  // CheckRanks sends KILL at kill_at, in this very Handle when that is now.
}

void Worker::Core::CheckRanks() {
  for (auto& [key, rank] : ranks_) {
    if (rank.pid == 0 || rank.reaped) continue;
    if (rank.ending == Ending::kNone) {
      const absl::Duration silent = now_ - rank.alive_at;
      if (!rank.said_hello && silent >= options_.attach_grace) {
        Out(Note{"killing " + key.ToString() + ": it has not attached within " +
                 absl::FormatDuration(options_.attach_grace)});
        End(&rank, Ending::kUnattached, absl::ZeroDuration());
      } else if (rank.said_hello && silent >= options_.frozen_after) {
        Out(Note{"killing " + key.ToString() + ": no beat for " + absl::FormatDuration(silent)});
        End(&rank, Ending::kFrozen, absl::ZeroDuration());
      }
    }
    if (now_ >= rank.kill_at) {
      // Once a second until it is reaped: a signal may be lost with a restart of nothing but the process table.
      rank.kill_at = now_ + absl::Seconds(1);
      Out(SignalRank{key, rank.pid, SIGKILL});
    }
  }
}

void Worker::Core::On(const RankSpawned& spawned) {
  HeldRank* rank = Find(spawned.rank);
  if (rank == nullptr || !rank->spawning) return;
  rank->spawning = false;
  rank->pid = spawned.pid;
  rank->alive_at = now_;
  SetPhase(rank, v1::RANK_PHASE_SPAWNED);
  if (rank->ending != Ending::kNone && rank->kill_at > now_) Out(SignalRank{rank->key, rank->pid, SIGTERM});
}

void Worker::Core::On(const RankSpawnFailed& failed) {
  HeldRank* rank = Find(failed.rank);
  if (rank == nullptr || !rank->spawning) return;
  rank->spawning = false;
  Finished(rank, {.exit_code = kExitCrash, .ending = rank->ending},
           "its process could not be started: " + failed.error);
}

void Worker::Core::On(const RankReaped& reaped) {
  HeldRank* rank = Find(reaped.rank);
  if (rank == nullptr || rank->reaped) return;
  const RankEnd end{
      .exit_code = reaped.exit_code, .signal = reaped.signal, .oom_killed = reaped.oom_killed, .ending = rank->ending};
  Finished(rank, end, rank->failure_message);
}

void Worker::Core::Finished(HeldRank* rank, const RankEnd& end, const std::string& message) {
  rank->reaped = true;
  rank->kill_at = absl::InfiniteDuration();
  const v1::RankPhase last_phase = rank->phase;
  rank->phase = v1::RANK_PHASE_EXITED;
  rank->shards.clear();  // no longer renewed: the coordinator gives them to another
  reports_.Drop(Subject(rank->key));
  v1::RankResult& result = rank->result;
  result.set_attempt_id(rank->key.attempt_id);
  result.set_fence(rank->key.fence);
  result.set_rank(rank->key.rank);
  result.set_exit_code(end.signal == 0 ? end.exit_code : 0);
  result.set_signal(end.signal);
  result.set_failure(Classify(end));
  if (end.exit_code != 0 || end.signal != 0) {
    const std::string text = message.empty() ? Describe(end) : message + " [" + Describe(end) + "]";
    result.set_message(CutUtf8(text, kResultMessageBytesMax));
  }
  result.set_at_boot_ns(absl::ToInt64Nanoseconds(now_));
  result.set_last_phase(last_phase);
  result.set_last_step(rank->beat.step());
  Out(Note{rank->key.ToString() + " ended: " + Describe(end)});
  Out(ForgetRank{rank->key});
  Out(StoreResult{rank->key, result});
}

void Worker::Core::On(const ResultStored& stored) {
  HeldRank* rank = Find(stored.rank);
  if (rank == nullptr || !rank->reaped) return;
  results_[stored.rank].result = std::move(rank->result);
  ranks_.erase(stored.rank);
}

void Worker::Core::On(const FromTrainer& input) {
  HeldRank* rank = Find(input.rank);
  if (rank == nullptr || rank->reaped) return;
  const v1::AttachRequest& message = input.message;
  switch (message.kind_case()) {
    case v1::AttachRequest::kHello:
      OnHello(rank);
      break;
    case v1::AttachRequest::kBeat:
      OnBeat(rank, message.beat());
      break;
    case v1::AttachRequest::kEndpoint: {
      rank->endpoint = message.endpoint();
      v1::SessionRequest report;
      report.mutable_rank()->set_attempt_id(rank->key.attempt_id);
      report.mutable_rank()->set_fence(rank->key.fence);
      report.mutable_rank()->set_rank(rank->key.rank);
      *report.mutable_rank()->mutable_endpoint() = message.endpoint();
      reports_.Add(Subject(rank->key) + "endpoint", std::move(report));
      rank->phase = std::max(rank->phase, v1::RANK_PHASE_READY);
      break;
    }
    case v1::AttachRequest::kFailure:
      rank->failure_message = CutUtf8(message.failure().message(), kResultMessageBytesMax);
      break;
    case v1::AttachRequest::kMetrics:
      break;  // the shell ships them; no decision depends on one
    case v1::AttachRequest::KIND_NOT_SET:
      break;
  }
}

void Worker::Core::OnHello(HeldRank* rank) {
  rank->attached = rank->said_hello = true;
  rank->alive_at = now_;
  v1::AttachResponse message;
  v1::Start* start = message.mutable_start();
  *start->mutable_spec() = rank->spec;
  start->set_fence(rank->key.fence);
  start->set_rank(rank->key.rank);
  start->set_world(rank->world);
  *start->mutable_device() = rank->device;
  start->set_secret(rank->secret);
  start->set_run_folder(RunFolder(options_.run_root, rank->key));
  for (const std::string& root : options_.data_roots) start->add_data_roots(root);
  start->mutable_orphan_grace()->set_seconds(absl::ToInt64Seconds(absl::Ceil(orphan_grace_, absl::Seconds(1))));
  Out(SendToTrainer{rank->key, std::move(message)});
  if (!rank->rendezvous) return;
  v1::AttachResponse rendezvous;
  *rendezvous.mutable_rendezvous() = *rank->rendezvous;
  Out(SendToTrainer{rank->key, std::move(rendezvous)});
}

void Worker::Core::OnBeat(HeldRank* rank, const v1::RankBeat& beat) {
  rank->alive_at = now_;
  rank->beat = beat;
  // Which phases a rank may claim: those of its own making.
  if (beat.phase() >= v1::RANK_PHASE_READY && beat.phase() < v1::RANK_PHASE_EXITED) SetPhase(rank, beat.phase());
}

void Worker::Core::SetPhase(HeldRank* rank, v1::RankPhase phase) {
  if (rank->phase == phase) return;
  rank->phase = phase;
  v1::SessionRequest report;
  report.mutable_rank()->set_attempt_id(rank->key.attempt_id);
  report.mutable_rank()->set_fence(rank->key.fence);
  report.mutable_rank()->set_rank(rank->key.rank);
  report.mutable_rank()->set_phase(phase);
  reports_.Add(Subject(rank->key) + "phase", std::move(report));
}

void Worker::Core::On(const TrainerDetached& detached) {
  // Its process may attach again; when it does not, its beats are missing.
  if (HeldRank* rank = Find(detached.rank)) rank->attached = false;
}

void Worker::Core::On(const ShardsLeased& leased) {
  HeldRank* rank = Find(leased.rank);
  if (rank == nullptr || rank->reaped) return;  // not renewed: the coordinator gives them to another
  for (const v1::HeldShard& shard : leased.shards) rank->shards.push_back(shard);
}

void Worker::Core::On(const ShardReleased& released) {
  for (auto& [key, rank] : ranks_) {
    std::erase_if(rank.shards, [&](const v1::HeldShard& held) { return SameShard(held, released.shard); });
  }
}

}  // namespace vlm::worker
