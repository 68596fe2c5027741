// Attempts from STARTING to ENDED: ranks that end, and why.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/core/core.h"
#include "coordinator/core/retry_policy.h"

namespace vlm::coordinator {

Stage* Coordinator::Core::FindAttempt(std::string_view attempt_id) {
  return const_cast<Stage*>(static_cast<const Core*>(this)->FindAttempt(attempt_id));
}

const Stage* Coordinator::Core::FindAttempt(std::string_view attempt_id) const {
  const auto it = ledger_.stages.find(StageUidOf(attempt_id));
  if (it == ledger_.stages.end() || !it->second->attempt.has_value()) return nullptr;
  const v1::AttemptRecord& record = it->second->attempt->record;
  return AttemptId(record.stage_uid(), record.fence()) == attempt_id ? it->second : nullptr;
}

v1::RankRecord* Coordinator::Core::FindRank(Stage* stage, int32_t rank) {
  for (v1::RankRecord& record : *stage->attempt->record.mutable_ranks()) {
    if (record.rank() == rank) return &record;
  }
  return nullptr;
}

void Coordinator::Core::Fire(Stage* stage, AttemptEvent event, std::string reason) {
  Attempt& attempt = *stage->attempt;
  const auto next = Next(attempt.record.state(), event);
  VLM_CHECK(next.has_value(),
            absl::StrCat("attempt of ", stage->record.name(), " in state ", Word(attempt.record.state()),
                         " cannot take event ", static_cast<int>(event)));
  const bool unassigned = attempt.record.state() == v1::ATTEMPT_STATE_FENCING && *next != v1::ATTEMPT_STATE_STARTING;
  if (unassigned) {
    // No rank was told to start, so its slot is free at once.
    for (v1::RankRecord& rank : *attempt.record.mutable_ranks()) {
      Worker* worker = workers_.Find(rank.node_id());
      workers_.FreeSlot(worker, AttemptId(attempt.record.stage_uid(), attempt.record.fence()), rank.rank());
      rank.set_ended(true);
      attempt.live[rank.rank()].state = RankState::kEnded;
    }
  }
  attempt.record.set_state(*next);
  attempt.since = now();
  if (const auto& root = attempt.cause.root(); root.has_value()) {
    attempt.record.set_failure(root->failure);
    attempt.record.set_failed_rank(root->rank);
    attempt.record.set_message(root->message);
  }
  ledger_.TouchAttempt(*stage);
  ledger_.Event(stage->job, stage, absl::StrCat("attempt.", Word(*next)), std::move(reason));
  schedule_ = true;
  if (*next == v1::ATTEMPT_STATE_ENDED) EndStageAttempt(stage);
}

void Coordinator::Core::StopAttempt(Stage* stage, v1::StopCause cause, const std::string& reason) {
  Attempt& attempt = *stage->attempt;
  if (attempt.record.state() == v1::ATTEMPT_STATE_STOPPING || attempt.record.state() == v1::ATTEMPT_STATE_ENDED) {
    return;  // the first cause stays; a cancel shows in the job's intent
  }
  attempt.record.set_stop_cause(cause);
  Fire(stage, AttemptEvent::kStop, reason);
  SendStops(stage);
  FinishIfReaped(stage);
}

void Coordinator::Core::SendStop(Stage* stage, Worker* worker, const std::vector<int32_t>& ranks) {
  const v1::AttemptRecord& record = stage->attempt->record;
  v1::SessionResponse message;
  v1::Stop* stop = message.mutable_stop();
  stop->set_attempt_id(AttemptId(record.stage_uid(), record.fence()));
  stop->set_fence(record.fence());
  stop->set_cause(record.stop_cause() == v1::STOP_CAUSE_UNSPECIFIED ? v1::STOP_CAUSE_FAILURE : record.stop_cause());
  stop->mutable_grace()->set_seconds(absl::ToInt64Seconds(options_.stop_grace));
  for (const int32_t rank : ranks) stop->add_ranks(rank);
  workers_.Send(worker, std::move(message));
}

void Coordinator::Core::SendStops(Stage* stage) {
  stage->attempt->stop_sent = now();
  std::map<std::string, std::vector<int32_t>> by_node;
  for (const v1::RankRecord& rank : stage->attempt->record.ranks()) {
    if (!rank.ended()) by_node[rank.node_id()].push_back(rank.rank());
  }
  for (const auto& [node, ranks] : by_node) SendStop(stage, workers_.Find(node), ranks);
}

void Coordinator::Core::BlameRank(Stage* stage, const Failure& failure) {
  Attempt& attempt = *stage->attempt;
  if (!attempt.cause.Add(failure, now(), options_.root_cause_window)) return;
  attempt.record.set_failure(failure.failure);
  attempt.record.set_failed_rank(failure.rank);
  attempt.record.set_message(failure.message);
  ledger_.TouchAttempt(*stage);
}

void Coordinator::Core::OnRankEnded(Stage* stage, int32_t number, const Failure& failure) {
  Attempt& attempt = *stage->attempt;
  const v1::AttemptState state = attempt.record.state();
  if (state == v1::ATTEMPT_STATE_ENDED) return;
  if (stage->record.pool()) {
    OnPoolRankEnded(stage, number, failure);
    return;
  }
  if (failure.failure != v1::FAILURE_CLASS_UNSPECIFIED) {
    BlameRank(stage, failure);
    if (state != v1::ATTEMPT_STATE_STOPPING) {
      StopAttempt(stage, v1::STOP_CAUSE_FAILURE, failure.message);
      return;
    }
  }
  FinishIfReaped(stage);
}

void Coordinator::Core::OnPoolRankEnded(Stage* stage, int32_t number, const Failure& failure) {
  Attempt& attempt = *stage->attempt;
  Failure why = failure;
  if (why.failure == v1::FAILURE_CLASS_UNSPECIFIED && !stage->shards.finished() &&
      attempt.record.state() != v1::ATTEMPT_STATE_STOPPING) {
    why.failure = v1::FAILURE_CLASS_CRASH;
    why.message = absl::StrCat("rank ", number, " exited 0 while shards were left");
  }
  const bool failed = why.failure != v1::FAILURE_CLASS_UNSPECIFIED;
  const bool blame =
      failed && why.failure != v1::FAILURE_CLASS_WORKER_LOST && attempt.record.state() != v1::ATTEMPT_STATE_STOPPING;
  // The finish task writes the stage's one final step, whose paths belong to one attempt: whoever does it again
  // needs a new fence. The shards that are done stay done.
  const bool finishing = stage->shards.HoldsFinish(number);
  const std::vector<uint32_t> poisoned = stage->shards.EndRank(number, blame, why.message);
  StopPoisoned(stage, poisoned);
  if (attempt.record.state() == v1::ATTEMPT_STATE_STOPPING || attempt.record.state() == v1::ATTEMPT_STATE_ENDED ||
      !failed || stage->shards.finished()) {
    if (attempt.record.state() != v1::ATTEMPT_STATE_ENDED) FinishIfReaped(stage);
    return;
  }
  const bool last = std::all_of(attempt.record.ranks().begin(), attempt.record.ranks().end(),
                                [](const v1::RankRecord& rank) { return rank.ended(); });
  if (last || finishing || attempt.record.state() == v1::ATTEMPT_STATE_STARTING) {
    BlameRank(stage, why);
    StopAttempt(stage, v1::STOP_CAUSE_FAILURE, why.message);
    return;
  }
  const RetryDecision decision = ChargeFailure(stage->job->record, why.failure, &stage->record);
  ledger_.Touch(*stage);
  if (!decision.retry) {
    why.message = absl::StrCat(why.message, "; ", decision.reason);
    BlameRank(stage, why);
    StopAttempt(stage, v1::STOP_CAUSE_FAILURE, why.message);
    return;
  }
  ++restarts_[Word(why.failure)];
  attempt.fill_after = now() + decision.wait;
  ledger_.Event(stage->job, stage, "rank.failed", absl::StrCat(why.message, "; ", decision.reason));
  schedule_ = true;
}

void Coordinator::Core::FinishIfReaped(Stage* stage) {
  Attempt& attempt = *stage->attempt;
  const auto& ranks = attempt.record.ranks();
  if (!std::all_of(ranks.begin(), ranks.end(), [](const v1::RankRecord& rank) { return rank.ended(); })) return;
  const bool all_zero = std::all_of(ranks.begin(), ranks.end(), [](const v1::RankRecord& rank) {
    return !rank.lost() && rank.exit_code() == 0 && rank.signal() == 0;
  });
  const v1::AttemptState state = attempt.record.state();
  if (state == v1::ATTEMPT_STATE_STOPPING) {
    // Work that is done stays done, also when the last ranks were told to stop a moment too late.
    if (stage->record.pool() && stage->shards.finished()) attempt.record.set_complete(true);
    Fire(stage, AttemptEvent::kAllReaped, "every rank is reaped or lost");
  } else if (stage->record.pool() ? stage->shards.finished() : all_zero) {
    attempt.record.set_complete(true);
    Fire(stage, AttemptEvent::kAllSucceeded, "every rank has ended");
  }
}

void Coordinator::Core::LoseRank(Stage* stage, v1::RankRecord* rank, bool free_slot, const std::string& message,
                                 absl::Duration at) {
  const int32_t number = rank->rank();
  const std::string node = rank->node_id();
  if (free_slot) {
    workers_.FreeSlot(workers_.Find(node),
                      AttemptId(stage->attempt->record.stage_uid(), stage->attempt->record.fence()), number);
    schedule_ = true;
  }
  LiveRank& live = stage->attempt->live[number];
  live.state = *Next(live.state, RankEvent::kWorkerGone);
  if (rank->ended()) return;
  rank->set_ended(true);
  rank->set_lost(true);
  rank->set_failure(v1::FAILURE_CLASS_WORKER_LOST);
  rank->set_message(message);
  ledger_.TouchAttempt(*stage);
  if (stage->attempt->record.state() == v1::ATTEMPT_STATE_FENCING) {
    BlameRank(stage, {v1::FAILURE_CLASS_WORKER_LOST, at, absl::ZeroDuration(), number, message});
    StopAttempt(stage, v1::STOP_CAUSE_FAILURE, message);
    return;
  }
  OnRankEnded(stage, number, {v1::FAILURE_CLASS_WORKER_LOST, at, absl::ZeroDuration(), number, message});
}

void Coordinator::Core::TickAttempt(Stage* stage) {
  if (stage->record.state() != v1::STAGE_STATE_ACTIVE) return;
  Attempt& attempt = *stage->attempt;
  if (stage->shards.Expire(now())) {
    const std::string message = "the finish task's lease ended without a word of its rank";
    BlameRank(stage, {v1::FAILURE_CLASS_CRASH, now(), absl::ZeroDuration(), -1, message});
    StopAttempt(stage, v1::STOP_CAUSE_FAILURE, message);
    return;
  }
  switch (attempt.record.state()) {
    case v1::ATTEMPT_STATE_STARTING:
      if (now() - attempt.since > options_.start_timeout) {
        std::string missing;
        for (const auto& [number, live] : attempt.live) {
          if (live.state == RankState::kAssigned) absl::StrAppend(&missing, missing.empty() ? "" : ", ", number);
        }
        const std::string message =
            absl::StrCat("not READY within ", absl::FormatDuration(options_.start_timeout), ": ranks ", missing);
        BlameRank(stage, {v1::FAILURE_CLASS_START_TIMEOUT, now(), absl::ZeroDuration(), -1, message});
        StopAttempt(stage, v1::STOP_CAUSE_FAILURE, message);
      }
      break;
    case v1::ATTEMPT_STATE_RUNNING:
      WatchForHangs(stage);
      if (stage->record.pool() && now() >= attempt.fill_after && HasVacancy(*stage)) schedule_ = true;
      break;
    case v1::ATTEMPT_STATE_STOPPING:
      if (now() - attempt.stop_sent > options_.stop_grace + options_.resend) SendStops(stage);
      break;
    default:
      break;
  }
}

}  // namespace vlm::coordinator
