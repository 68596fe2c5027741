// What workers say: Hello, beats, endpoints, results.
#include <algorithm>
#include <set>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/utf8.h"
#include "coordinator/core/core.h"

namespace vlm::coordinator {
namespace {

constexpr int kSignalTerm = 15;
constexpr int kSignalKill = 9;
// The most a report's age and half a round trip may be wrong.
constexpr absl::Duration kClockErrorMax = absl::Milliseconds(250);

const v1::HeldRank* FindHeld(const v1::Hello& hello, const std::string& attempt_id, int32_t rank) {
  for (const v1::HeldRank& held : hello.held()) {
    if (held.attempt_id() == attempt_id && held.rank() == rank) return &held;
  }
  return nullptr;
}

bool IsRunnable(v1::AttemptState state) {
  return state == v1::ATTEMPT_STATE_STARTING || state == v1::ATTEMPT_STATE_RUNNING;
}

void SetDuration(absl::Duration from, google::protobuf::Duration* to) {
  to->set_seconds(absl::ToInt64Seconds(from));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(from - absl::Seconds(to->seconds()))));
}

}  // namespace

void Coordinator::Core::On(const FromWorker& input) {
  Worker* worker = workers_.BySession(input.session);
  const v1::SessionRequest& message = input.message;
  if (message.kind_case() == v1::SessionRequest::kHello) {
    if (worker == nullptr) {
      OnHello(input.session, message);
    } else {
      workers_.Unbind(input.session);
      ledger_.Effect(CloseSession{input.session, absl::InvalidArgumentError("a session has one Hello")});
    }
    return;
  }
  if (worker == nullptr) {
    // Late bytes of a session that was closed here, or one without Hello.
    ledger_.Effect(CloseSession{input.session, absl::FailedPreconditionError("say Hello first")});
    return;
  }
  workers_.Heard(worker, message);
  switch (message.kind_case()) {
    case v1::SessionRequest::kBeat:
      OnBeat(worker, message.beat());
      break;
    case v1::SessionRequest::kRank:
      OnRankUpdate(worker, message.rank());
      break;
    case v1::SessionRequest::kResult:
      OnResult(worker, message.result());
      break;
    case v1::SessionRequest::kRootChecked:
      OnRootChecked(worker, message.root_checked());
      break;
    default:
      break;  // of a newer worker; it says nothing this protocol needs
  }
}

void Coordinator::Core::On(const SessionClosed& input) { workers_.Unbind(input.session); }

void Coordinator::Core::OnHello(uint64_t session, const v1::SessionRequest& message) {
  const v1::Hello& hello = message.hello();
  if (absl::Status status = workers_.Admit(hello); !status.ok()) {
    ledger_.Event(nullptr, nullptr, "worker.refused", std::string(status.message().data(), status.message().size()));
    ledger_.Effect(CloseSession{session, std::move(status)});
    return;
  }
  if (hello.epoch_seen() > ledger_.meta.epoch()) {
    // A restored store: workers refuse an epoch that goes back, so it must not.
    ledger_.meta.set_epoch(hello.epoch_seen() + 1);
    ledger_.TouchMeta();
  }
  const Worker* known = workers_.Find(hello.node_id());
  const bool was_live = known != nullptr && known->state == v1::NODE_STATE_LIVE;
  const bool fresh = workers_.Welcome(hello);
  Worker* worker = workers_.Find(hello.node_id());
  if (!was_live || fresh) {
    ledger_.Event(nullptr, nullptr, "worker.live",
                  absl::StrCat(hello.node_id(), " on ", hello.hostname(), ", incarnation ", hello.incarnation(), ", ",
                               hello.devices_size(), " devices"));
  }
  Reconcile(worker, hello, fresh);
  workers_.OpenSession(session, worker);
  workers_.Heard(worker, message);
  SendWelcome(worker, hello);
  SendWanted(worker, hello);
  workers_changed_ = schedule_ = true;
}

void Coordinator::Core::Reconcile(Worker* worker, const v1::Hello& hello, bool fresh) {
  for (const v1::RankResult& result : hello.unacknowledged()) OnResult(worker, result);
  const auto taken = worker->record.taken();  // a copy: slots are freed meanwhile
  for (const v1::TakenSlot& slot : taken) {
    ReconcileRank(worker, slot, FindHeld(hello, slot.attempt_id(), slot.rank()), fresh);
  }
  HoldShards(*worker, hello.shards());
}

void Coordinator::Core::ReconcileRank(Worker* worker, const v1::TakenSlot& slot, const v1::HeldRank* held, bool fresh) {
  Stage* stage = FindAttempt(slot.attempt_id());
  v1::RankRecord* rank = stage == nullptr ? nullptr : FindRank(stage, slot.rank());
  const bool open = rank != nullptr && !rank->ended();
  const v1::AttemptState state = stage == nullptr ? v1::ATTEMPT_STATE_ENDED : stage->attempt->record.state();
  if (state == v1::ATTEMPT_STATE_FENCING) {
    // Not assigned yet: a worker that has restarted is as good as before.
    if (rank != nullptr) rank->set_incarnation(worker->record.incarnation());
    return;
  }
  if (held == nullptr || fresh) {
    const bool assigned_again =
        !fresh && open &&
        (state == v1::ATTEMPT_STATE_STARTING || (state == v1::ATTEMPT_STATE_RUNNING && stage->record.pool()));
    if (assigned_again) return;  // SendWanted names it again
    schedule_ = true;
    if (open) {
      LoseRank(stage, rank, /*free_slot=*/true,
               absl::StrCat("rank ", slot.rank(), " is gone: worker ", worker->record.node_id(),
                            fresh ? " has restarted" : " does not hold it any more"),
               now());
    } else {
      workers_.FreeSlot(worker, slot.attempt_id(), slot.rank());
    }
    return;
  }
  if (!open || !IsRunnable(state)) return;  // killed by the worker as not allowed, or told to stop below
  LiveRank& live = stage->attempt->live[slot.rank()];
  live.phase = held->phase();
  live.beat_at = live.moved_at = live.step_at = now();
  if (held->has_endpoint()) live.endpoint = held->endpoint();
  if (held->has_endpoint() || (stage->record.pool() && held->phase() >= v1::RANK_PHASE_READY)) {
    live.state = *Next(live.state, RankEvent::kEndpoint);
  }
}

void Coordinator::Core::SendWelcome(Worker* worker, const v1::Hello& hello) {
  v1::SessionResponse message;
  v1::Welcome* welcome = message.mutable_welcome();
  welcome->set_protocol(std::min(kProtocolMax, hello.protocol_max()));
  SetDuration(options_.lease, welcome->mutable_lease());
  SetDuration(options_.orphan_grace, welcome->mutable_orphan_grace());
  welcome->set_telemetry_credit_bytes(options_.telemetry_credit_bytes);
  std::set<std::string> named;
  for (const v1::TakenSlot& slot : worker->record.taken()) {
    Stage* stage = FindAttempt(slot.attempt_id());
    if (stage == nullptr || !IsRunnable(stage->attempt->record.state())) continue;
    const v1::RankRecord* rank = FindRank(stage, slot.rank());
    if (rank == nullptr || rank->ended() || !named.insert(slot.attempt_id()).second) continue;
    v1::AllowedAttempt* allowed = welcome->add_allowed();
    allowed->set_attempt_id(slot.attempt_id());
    allowed->set_fence(slot.fence());
  }
  workers_.Send(worker, std::move(message));
}

void Coordinator::Core::SendWanted(Worker* worker, const v1::Hello& hello) {
  for (const v1::RankResult& result : hello.unacknowledged()) {
    v1::SessionResponse message;
    message.mutable_result()->set_attempt_id(result.attempt_id());
    message.mutable_result()->set_rank(result.rank());
    workers_.Send(worker, std::move(message));
  }
  std::map<std::string, std::set<int32_t>> missing;
  std::set<std::string> attempts;
  const auto taken = worker->record.taken();
  for (const v1::TakenSlot& slot : taken) {
    Stage* stage = FindAttempt(slot.attempt_id());
    if (stage == nullptr || !IsRunnable(stage->attempt->record.state())) continue;
    attempts.insert(slot.attempt_id());
    const bool held = FindHeld(hello, slot.attempt_id(), slot.rank()) != nullptr;
    const v1::RankRecord* rank = FindRank(stage, slot.rank());
    if (rank == nullptr || rank->ended() || stage->attempt->live[slot.rank()].condemned.has_value()) {
      if (held) SendStop(stage, worker, {slot.rank()});
    } else if (!held) {
      missing[slot.attempt_id()].insert(slot.rank());
    }
  }
  for (const std::string& attempt_id : attempts) {
    Stage* stage = FindAttempt(attempt_id);
    if (missing.contains(attempt_id)) AssignRanks(stage, worker, &missing[attempt_id]);
    const bool sent_before = stage->attempt->rendezvous_sent;
    OnReady(stage);
    if (sent_before && stage->attempt->record.state() == v1::ATTEMPT_STATE_RUNNING) SendRendezvous(stage, worker);
  }
}

void Coordinator::Core::StopStray(Worker* worker, const std::string& attempt_id, int32_t rank) {
  v1::SessionResponse message;
  v1::Stop* stop = message.mutable_stop();
  uint64_t fence = 0;
  const size_t slash = attempt_id.find('/');
  if (slash == std::string::npos || !absl::SimpleAtoi(attempt_id.substr(slash + 1), &fence)) return;
  stop->set_attempt_id(attempt_id);
  stop->set_fence(fence);
  stop->set_cause(v1::STOP_CAUSE_SUPERSEDED);
  SetDuration(options_.stop_grace, stop->mutable_grace());
  stop->add_ranks(rank);
  workers_.Send(worker, std::move(message));
}

void Coordinator::Core::OnBeat(Worker* worker, const v1::Beat& beat) {
  worker->disk_free_bytes = beat.disk_free_bytes();
  for (const v1::RankBeat& rank : beat.ranks()) {
    Stage* stage = FindAttempt(rank.attempt_id());
    const v1::RankRecord* record = stage == nullptr ? nullptr : FindRank(stage, rank.rank());
    if (record == nullptr || record->node_id() != worker->record.node_id() || record->ended()) {
      StopStray(worker, rank.attempt_id(), rank.rank());
    } else {
      NoteBeat(stage, rank);
    }
  }
  HoldShards(*worker, beat.shards());
  v1::SessionResponse message;
  message.mutable_beat();
  workers_.Send(worker, std::move(message));
}

void Coordinator::Core::HoldShards(const Worker& worker,
                                   const google::protobuf::RepeatedPtrField<v1::HeldShard>& shards) {
  for (const v1::HeldShard& held : shards) {
    const auto it = ledger_.stages.find(held.stage_uid());
    if (it == ledger_.stages.end() || it->second->record.fence() != held.fence() ||
        it->second->record.state() != v1::STAGE_STATE_ACTIVE) {
      continue;
    }
    const std::string& node_id = worker.record.node_id();
    if (!CheckHolder(*it->second, node_id, held.shard(), held.lease_id()).ok()) continue;
    const auto& leases = it->second->shards.leases();
    // One that has run out stays open to all: a beat that comes late, or from another worker, does not revive it.
    if (!leases.contains(held.shard()) && !ledger_.IsEarlierLease(held.lease_id())) continue;
    it->second->shards.Hold(held.shard(), held.lease_id(), node_id, now() + options_.shard_lease);
  }
}

void Coordinator::Core::OnRankUpdate(Worker* worker, const v1::RankUpdate& update) {
  Stage* stage = FindAttempt(update.attempt_id());
  const v1::RankRecord* rank = stage == nullptr ? nullptr : FindRank(stage, update.rank());
  if (rank == nullptr || rank->node_id() != worker->record.node_id() || rank->ended()) return;
  LiveRank& live = stage->attempt->live[update.rank()];
  if (update.has_endpoint()) {
    live.endpoint = update.endpoint();
    live.state = *Next(live.state, RankEvent::kEndpoint);
    live.phase = std::max(live.phase, v1::RANK_PHASE_READY);
  } else {
    live.phase = update.phase();
    // A pool's rank has no peers: any word after READY says that it is there.
    if (stage->record.pool() && update.phase() >= v1::RANK_PHASE_READY && update.phase() < v1::RANK_PHASE_EXITED) {
      live.state = *Next(live.state, RankEvent::kEndpoint);
    }
  }
  live.beat_at = live.moved_at = now();
  if (IsRunnable(stage->attempt->record.state())) OnReady(stage);
}

void Coordinator::Core::OnResult(Worker* worker, const v1::RankResult& result) {
  v1::SessionResponse message;
  message.mutable_result()->set_attempt_id(result.attempt_id());
  message.mutable_result()->set_rank(result.rank());
  workers_.Send(worker, std::move(message));
  // The rank is reaped: whatever became of its attempt, its slot is free.
  if (workers_.FreeSlot(worker, result.attempt_id(), result.rank())) schedule_ = true;
  Stage* stage = FindAttempt(result.attempt_id());
  v1::RankRecord* rank = stage == nullptr ? nullptr : FindRank(stage, result.rank());
  if (rank == nullptr || rank->node_id() != worker->record.node_id() || rank->ended()) return;
  LiveRank& live = stage->attempt->live[result.rank()];
  live.state = *Next(live.state, RankEvent::kResult);
  live.phase = v1::RANK_PHASE_EXITED;
  Failure failure;
  failure.failure = result.failure() != v1::FAILURE_CLASS_UNSPECIFIED
                        ? result.failure()
                        : ClassOfExit(result.exit_code(), result.signal());
  const absl::Duration age =
      std::max(absl::ZeroDuration(), absl::Nanoseconds(result.sent_boot_ns()) - absl::Nanoseconds(result.at_boot_ns()));
  failure.at = now() - age - worker->round_trip / 2;
  failure.error = std::min(worker->round_trip / 2, kClockErrorMax);
  failure.rank = result.rank();
  const bool ours = stage->attempt->record.state() == v1::ATTEMPT_STATE_STOPPING || live.condemned.has_value();
  const bool by_signal = result.signal() == kSignalTerm || result.signal() == kSignalKill;
  if (ours && by_signal && failure.failure != v1::FAILURE_CLASS_OUT_OF_MEMORY) {
    failure.failure = v1::FAILURE_CLASS_UNSPECIFIED;  // our own signal
  }
  std::string message_text = CutUtf8(result.message(), kMessageBytesMax);
  if (live.condemned.has_value()) {
    failure.failure = *live.condemned;
    message_text = live.condemned_message;
  }
  rank->set_ended(true);
  rank->set_exit_code(result.exit_code());
  rank->set_signal(result.signal());
  rank->set_failure(failure.failure);
  rank->set_message(message_text);
  ledger_.TouchAttempt(*stage);
  if (failure.failure != v1::FAILURE_CLASS_UNSPECIFIED) {
    failure.message = absl::StrCat(Word(failure.failure), " of rank ", result.rank(), " on ", worker->record.node_id(),
                                   message_text.empty() ? "" : ": ", message_text);
  }
  OnRankEnded(stage, result.rank(), failure);
}

void Coordinator::Core::LoseWorker(Worker* worker) {
  const std::string message =
      absl::StrCat("worker ", worker->record.node_id(), " is lost: no message for ",
                   absl::FormatDuration(absl::Trunc(now() - worker->heard, absl::Milliseconds(100))));
  ledger_.Event(nullptr, nullptr, "worker.lost", message);
  workers_changed_ = schedule_ = true;
  const auto taken = worker->record.taken();
  for (const v1::TakenSlot& slot : taken) {
    Stage* stage = FindAttempt(slot.attempt_id());
    v1::RankRecord* rank = stage == nullptr ? nullptr : FindRank(stage, slot.rank());
    if (rank != nullptr && !rank->ended()) LoseRank(stage, rank, /*free_slot=*/false, message, worker->heard);
  }
}

// One that a current attempt names stays, since the attempt's ranks are looked up by it. A forgotten worker that
// comes back is a new one: its Welcome allows nothing old, so it kills what it still holds.
void Coordinator::Core::ForgetWorkers() {
  std::set<std::string> old;
  for (const auto& [id, worker] : workers_.all()) {
    if (worker->state == v1::NODE_STATE_LOST && now() - worker->heard > options_.forget_lost_after) old.insert(id);
  }
  if (old.empty()) return;
  for (const std::string& uid : ledger_.busy) {
    const Stage& stage = *ledger_.stages.at(uid);
    if (!stage.attempt.has_value()) continue;
    for (const v1::RankRecord& rank : stage.attempt->record.ranks()) old.erase(rank.node_id());
  }
  for (const std::string& id : old) {
    ledger_.Event(nullptr, nullptr, "worker.forgotten",
                  absl::StrCat("worker ", id, " was lost for ", absl::FormatDuration(options_.forget_lost_after)));
    workers_.Forget(id);
  }
}

}  // namespace vlm::coordinator
