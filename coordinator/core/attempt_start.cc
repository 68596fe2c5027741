// Attempts from their fence to RUNNING.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/utf8.h"
#include "coordinator/core/core.h"
#include "coordinator/core/retry_policy.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kSecretBytes = 32;

std::string Text(const absl::Status& status) {
  return CutUtf8({status.message().data(), status.message().size()}, kMessageBytesMax);
}

}  // namespace

void Coordinator::Core::OpenAttempt(Stage* stage, const PlacementDecision& placement) {
  Job* job = stage->job;
  const uint64_t fence = job->record.fence() + 1;
  job->record.set_fence(fence);
  job->record.set_attempted(true);
  ledger_.Touch(*job);
  stage->record.set_fence(fence);
  stage->record.set_committed_since(false);
  stage->shards.DropLeases();
  Attempt& attempt = stage->attempt.emplace();
  attempt.since = now();
  v1::AttemptRecord& record = attempt.record;
  record.set_stage_uid(stage->record.stage_uid());
  record.set_fence(fence);
  record.set_state(v1::ATTEMPT_STATE_FENCING);
  record.set_world(static_cast<int32_t>(placement.ranks.size()));
  record.set_secret(options_.random_bytes(kSecretBytes));
  const std::string attempt_id = AttemptId(record.stage_uid(), fence);
  for (const PlacedRank& placed : placement.ranks) {
    Worker* worker = workers_.Find(placed.node_id);
    v1::RankRecord* rank = record.add_ranks();
    rank->set_rank(record.next_rank());
    rank->set_node_id(placed.node_id);
    rank->set_incarnation(worker->record.incarnation());
    *rank->mutable_device() = placed.device;
    record.set_next_rank(record.next_rank() + 1);
    attempt.live[rank->rank()];
    workers_.TakeSlot(worker, placed.device, attempt_id, fence, rank->rank());
  }
  ledger_.TouchAttempt(*stage);
  Fire(stage, StageEvent::kCapacity, placement.reason);
  ledger_.Event(job, stage, "attempt.fencing", placement.reason);
  WantCall(stage);
}

void Coordinator::Core::On(const AttemptOpened& input) {
  const auto it = ledger_.stages.find(input.stage_uid);
  if (it == ledger_.stages.end()) return;
  Stage* stage = it->second;
  if (stage->record.state() != v1::STAGE_STATE_ACTIVE || stage->record.fence() != input.fence ||
      stage->attempt->record.state() != v1::ATTEMPT_STATE_FENCING) {
    return;
  }
  if (!input.status.ok()) {
    if (FailCall(stage, input.status)) return;
    BlameRank(stage, {v1::FAILURE_CLASS_STORAGE, now(), absl::ZeroDuration(), -1,
                      absl::StrCat("the checkpoint service refused the attempt: ", Text(input.status))});
    StopAttempt(stage, v1::STOP_CAUSE_FAILURE, "the checkpoint service refused the attempt");
    return;
  }
  stage->call = WantedCall();
  v1::AttemptRecord& record = stage->attempt->record;
  if (input.response.step() > stage->record.committed_step()) ResetBudget(&stage->record);
  stage->record.set_committed_step(input.response.step());
  ledger_.Touch(*stage);
  record.mutable_resume()->set_step(input.response.step());
  record.mutable_resume()->set_folder(input.response.folder());
  record.mutable_resume()->set_cursor(input.response.cursor());
  ledger_.TouchAttempt(*stage);
  if (input.response.final()) {
    record.set_complete(true);
    Fire(stage, AttemptEvent::kFoundComplete, "the final step was complete already");
    return;
  }
  Fire(stage, AttemptEvent::kOpened, absl::StrCat("resumes at step ", input.response.step()));
  for (auto& [number, live] : stage->attempt->live) live.beat_at = live.moved_at = live.step_at = now();
  for (const auto& [id, worker] : workers_.all()) AssignRanks(stage, worker.get(), nullptr);
}

v1::AttemptSpec Coordinator::Core::MakeSpec(const Stage& stage) const {
  v1::AttemptSpec spec;
  spec.set_job_id(stage.record.job_id());
  spec.set_stage(stage.record.name());
  spec.set_stage_uid(stage.record.stage_uid());
  spec.set_kind(stage.record.kind());
  spec.set_stage_json(stage.spec_json);
  spec.set_seed(stage.record.seed());
  spec.set_artifacts(stage.job->record.artifacts());
  spec.set_pool(stage.record.pool());
  spec.set_shards(stage.record.shards());
  *spec.mutable_resume() = stage.attempt->record.resume();
  for (const std::string& name : stage.record.inputs()) {
    const Stage* parent = stage.job->Find(name);
    v1::InputArtifact* input = spec.add_inputs();
    input->set_stage(name);
    input->set_kind(parent->record.kind());
    input->set_folder(parent->record.artifact_folder());
    input->set_digest(parent->record.artifact_digest());
  }
  return spec;
}

// `only`: these ranks; null: every rank of the worker that has not ended. Idempotent at the worker.
void Coordinator::Core::AssignRanks(Stage* stage, Worker* worker, const std::set<int32_t>* only) {
  const v1::AttemptRecord& record = stage->attempt->record;
  v1::SessionResponse message;
  v1::Assign* assign = message.mutable_assign();
  for (const v1::RankRecord& rank : record.ranks()) {
    if (rank.ended() || rank.node_id() != worker->record.node_id()) continue;
    if (only != nullptr && !only->contains(rank.rank())) continue;
    v1::RankSlot* slot = assign->add_ranks();
    slot->set_rank(rank.rank());
    *slot->mutable_device() = rank.device();
  }
  if (assign->ranks().empty()) return;
  assign->set_attempt_id(AttemptId(record.stage_uid(), record.fence()));
  assign->set_fence(record.fence());
  assign->set_world(record.world());
  assign->set_secret(record.secret());
  *assign->mutable_spec() = MakeSpec(*stage);
  workers_.Send(worker, std::move(message));
}

void Coordinator::Core::OnReady(Stage* stage) {
  Attempt& attempt = *stage->attempt;
  const bool pool = stage->record.pool();
  const auto ready = [](const auto& entry) { return entry.second.state == RankState::kReady; };
  const bool complete = pool ? std::any_of(attempt.live.begin(), attempt.live.end(), ready)
                             : std::all_of(attempt.live.begin(), attempt.live.end(), ready);
  if (!complete) return;
  if (attempt.record.state() == v1::ATTEMPT_STATE_STARTING) {
    for (auto& [number, live] : attempt.live) live.beat_at = live.moved_at = live.step_at = now();
    Fire(stage, AttemptEvent::kAllReady, absl::StrCat(attempt.record.world(), " ranks"));
  }
  if (!pool && !attempt.rendezvous_sent && attempt.record.state() == v1::ATTEMPT_STATE_RUNNING) {
    attempt.rendezvous_sent = true;
    SendRendezvous(stage, nullptr);
  }
}

// A pool's ranks have no peers. Needs the endpoint of every rank; after a restart of ours they come again with
// the workers' Hello.
void Coordinator::Core::SendRendezvous(Stage* stage, Worker* only) {
  const Attempt& attempt = *stage->attempt;
  v1::SessionResponse message;
  v1::Rendezvous* rendezvous = message.mutable_rendezvous();
  rendezvous->set_attempt_id(AttemptId(attempt.record.stage_uid(), attempt.record.fence()));
  rendezvous->set_fence(attempt.record.fence());
  for (const auto& [number, live] : attempt.live) {
    if (!live.endpoint.has_value()) return;
    *rendezvous->add_by_rank() = *live.endpoint;
  }
  std::set<std::string> nodes;
  for (const v1::RankRecord& rank : attempt.record.ranks()) {
    if (!rank.ended()) nodes.insert(rank.node_id());
  }
  for (const std::string& node : nodes) {
    Worker* worker = workers_.Find(node);
    if (worker != nullptr && (only == nullptr || only == worker)) workers_.Send(worker, message);
  }
}

// The record of a pool's attempt has `world` ranks: those that have ended are the vacancies.
bool Coordinator::Core::HasVacancy(const Stage& stage) {
  const auto& ranks = stage.attempt->record.ranks();
  return std::any_of(ranks.begin(), ranks.end(), [](const v1::RankRecord& rank) { return rank.ended(); });
}

// How many ranks more a pool has work for: those that have ended, and, for shards that nobody works on, as many as the
// stage may have. Slots come free and workers join while a pool runs.
int32_t Coordinator::Core::MissingRanks(const Stage& stage) {
  const auto& ranks = stage.attempt->record.ranks();
  const auto vacant =
      static_cast<int32_t>(std::count_if(ranks.begin(), ranks.end(), [](const auto& rank) { return rank.ended(); }));
  const int32_t unmanned = static_cast<int32_t>(stage.shards.open()) - vacant;
  return vacant + std::clamp(unmanned, 0, std::max(0, stage.record.ranks_max() - ranks.size()));
}

// A pool goes on with fewer ranks, and takes more later. Each new rank gets a number of its own, so that a late report
// of a lost rank is never taken for its replacement's.
void Coordinator::Core::FillVacancies(Stage* stage) {
  Attempt& attempt = *stage->attempt;
  if (!stage->record.pool() || attempt.record.state() != v1::ATTEMPT_STATE_RUNNING || now() < attempt.fill_after ||
      stage->shards.finished()) {
    return;
  }
  const int32_t missing = MissingRanks(*stage);
  if (missing == 0) return;
  const PlacementWish wish{1, missing, stage->job->record.device()};
  AskRootsFor(*stage->job);
  const PlacementDecision placement = DecidePlacement(wish, Offers(*stage->job));
  for (const PlacedRank& placed : placement.ranks) AddPoolRank(stage, placed);
}

void Coordinator::Core::AddPoolRank(Stage* stage, const PlacedRank& placed) {
  Attempt& attempt = *stage->attempt;
  auto* ranks = attempt.record.mutable_ranks();
  const auto ended = std::find_if(ranks->begin(), ranks->end(), [](const auto& rank) { return rank.ended(); });
  const bool replaces = ended != ranks->end();
  if (replaces) {
    // The record keeps the latest end of each vacancy only.
    attempt.live.erase(ended->rank());
    ranks->erase(ended);
  } else {
    attempt.record.set_world(attempt.record.world() + 1);
  }
  Worker* worker = workers_.Find(placed.node_id);
  v1::RankRecord* rank = attempt.record.add_ranks();
  rank->set_rank(attempt.record.next_rank());
  rank->set_node_id(placed.node_id);
  rank->set_incarnation(worker->record.incarnation());
  *rank->mutable_device() = placed.device;
  attempt.record.set_next_rank(attempt.record.next_rank() + 1);
  LiveRank& live = attempt.live[rank->rank()];
  live.beat_at = live.moved_at = live.step_at = now();
  const std::string attempt_id = AttemptId(attempt.record.stage_uid(), attempt.record.fence());
  workers_.TakeSlot(worker, placed.device, attempt_id, attempt.record.fence(), rank->rank());
  ledger_.TouchAttempt(*stage);
  ledger_.Event(stage->job, stage, replaces ? "rank.replaced" : "rank.added",
                absl::StrCat("rank ", rank->rank(), " on ", placed.node_id));
  const std::set<int32_t> only = {rank->rank()};
  AssignRanks(stage, worker, &only);
}

}  // namespace vlm::coordinator
