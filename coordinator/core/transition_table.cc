#include "coordinator/core/transition_table.h"

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace vlm::coordinator {
namespace {

using J = JobEvent;
using S = StageEvent;
using A = AttemptEvent;
using R = RankEvent;
using W = WorkerEvent;

constexpr JobTransition kJob[] = {
    {v1::JOB_STATE_PENDING, J::kAttemptOpened, v1::JOB_STATE_RUNNING, "the first attempt opens"},
    {v1::JOB_STATE_PENDING, J::kAllSucceeded, v1::JOB_STATE_SUCCEEDED, "every stage was reused or had finished"},
    {v1::JOB_STATE_PENDING, J::kLastAttemptEnded, v1::JOB_STATE_CANCELLED, "cancelled with nothing to stop"},
    {v1::JOB_STATE_PENDING, J::kFailed, v1::JOB_STATE_FAILED, "publishing failed before any attempt of this round"},
    {v1::JOB_STATE_RUNNING, J::kAllSucceeded, v1::JOB_STATE_SUCCEEDED, "every stage SUCCEEDED or REUSED"},
    {v1::JOB_STATE_RUNNING, J::kFailed, v1::JOB_STATE_FAILED, "a stage FAILED and all others are final"},
    {v1::JOB_STATE_RUNNING, J::kCancelled, v1::JOB_STATE_CANCELLING, "attempts are stopped"},
    {v1::JOB_STATE_RUNNING, J::kLastAttemptEnded, v1::JOB_STATE_CANCELLED, "cancelled with nothing to stop"},
    {v1::JOB_STATE_PENDING, J::kCancelled, v1::JOB_STATE_CANCELLING, "a stage is still publishing"},
    {v1::JOB_STATE_CANCELLING, J::kLastAttemptEnded, v1::JOB_STATE_CANCELLED, "the last attempt ended"},
    {v1::JOB_STATE_FAILED, J::kRetried, v1::JOB_STATE_PENDING, "retry: good stages are kept"},
    {v1::JOB_STATE_RUNNING, J::kRetried, v1::JOB_STATE_PENDING, "retry of a failed stage beside running ones"},
    {v1::JOB_STATE_PENDING, J::kRetried, v1::JOB_STATE_PENDING, "retry"},
};

constexpr StageTransition kStage[] = {
    {v1::STAGE_STATE_BLOCKED, S::kReuseFound, v1::STAGE_STATE_REUSED, "same key, files verified"},
    {v1::STAGE_STATE_BLOCKED, S::kReuseMissed, v1::STAGE_STATE_QUEUED, "parents are done, nothing to reuse"},
    {v1::STAGE_STATE_BLOCKED, S::kParentFailed, v1::STAGE_STATE_UPSTREAM_FAILED, "a parent FAILED"},
    {v1::STAGE_STATE_BLOCKED, S::kCancelled, v1::STAGE_STATE_CANCELLED, "cancel"},
    {v1::STAGE_STATE_QUEUED, S::kCapacity, v1::STAGE_STATE_ACTIVE, "attempt FENCING with fence + 1"},
    {v1::STAGE_STATE_QUEUED, S::kCancelled, v1::STAGE_STATE_CANCELLED, "cancel"},
    {v1::STAGE_STATE_ACTIVE, S::kAttemptSucceeded, v1::STAGE_STATE_PUBLISHING, "every rank exited 0, or complete"},
    {v1::STAGE_STATE_ACTIVE, S::kFailedRetry, v1::STAGE_STATE_BACKOFF, "the budget allows another attempt"},
    {v1::STAGE_STATE_ACTIVE, S::kFailedFinal, v1::STAGE_STATE_FAILED, "the budget is spent"},
    {v1::STAGE_STATE_ACTIVE, S::kCancelled, v1::STAGE_STATE_CANCELLED, "the attempt ended after a cancel"},
    {v1::STAGE_STATE_BACKOFF, S::kBackoffOver, v1::STAGE_STATE_QUEUED, "the wait is over"},
    {v1::STAGE_STATE_BACKOFF, S::kCancelled, v1::STAGE_STATE_CANCELLED, "cancel"},
    {v1::STAGE_STATE_PUBLISHING, S::kPublished, v1::STAGE_STATE_SUCCEEDED, "the artifact is in the catalog"},
    {v1::STAGE_STATE_PUBLISHING, S::kFailedRetry, v1::STAGE_STATE_BACKOFF, "outputs missing or damaged"},
    {v1::STAGE_STATE_PUBLISHING, S::kFailedFinal, v1::STAGE_STATE_FAILED, "outputs missing, the budget is spent"},
    {v1::STAGE_STATE_PUBLISHING, S::kCancelled, v1::STAGE_STATE_CANCELLED, "published after a cancel"},
    {v1::STAGE_STATE_FAILED, S::kRetried, v1::STAGE_STATE_QUEUED, "retry, with a fresh budget"},
    {v1::STAGE_STATE_UPSTREAM_FAILED, S::kRetried, v1::STAGE_STATE_BLOCKED, "retry of a parent"},
};

constexpr AttemptTransition kAttempt[] = {
    {v1::ATTEMPT_STATE_FENCING, A::kOpened, v1::ATTEMPT_STATE_STARTING, "resume step stored, assignments leave"},
    {v1::ATTEMPT_STATE_FENCING, A::kFoundComplete, v1::ATTEMPT_STATE_ENDED, "the final step is complete"},
    {v1::ATTEMPT_STATE_FENCING, A::kStop, v1::ATTEMPT_STATE_STOPPING, "cancel, or a worker is gone"},
    {v1::ATTEMPT_STATE_STARTING, A::kAllReady, v1::ATTEMPT_STATE_RUNNING, "gang: every rank; pool: the first"},
    {v1::ATTEMPT_STATE_STARTING, A::kAllSucceeded, v1::ATTEMPT_STATE_ENDED, "every rank exited 0"},
    {v1::ATTEMPT_STATE_STARTING, A::kStop, v1::ATTEMPT_STATE_STOPPING, "cancel, failure or start timeout"},
    {v1::ATTEMPT_STATE_RUNNING, A::kAllSucceeded, v1::ATTEMPT_STATE_ENDED, "every rank exited 0"},
    {v1::ATTEMPT_STATE_RUNNING, A::kStop, v1::ATTEMPT_STATE_STOPPING, "cancel, failure, hang or worker lost"},
    {v1::ATTEMPT_STATE_STOPPING, A::kAllReaped, v1::ATTEMPT_STATE_ENDED, "each rank reaped or its worker LOST"},
};

constexpr RankTransition kRank[] = {
    {RankState::kAssigned, R::kEndpoint, RankState::kReady, "the endpoint is posted"},
    {RankState::kAssigned, R::kResult, RankState::kEnded, "reaped"},
    {RankState::kAssigned, R::kWorkerGone, RankState::kEnded, "the worker is LOST or has a new incarnation"},
    {RankState::kReady, R::kEndpoint, RankState::kReady, "posted again after a reconnect"},
    {RankState::kReady, R::kResult, RankState::kEnded, "reaped"},
    {RankState::kReady, R::kWorkerGone, RankState::kEnded, "the worker is LOST or has a new incarnation"},
    {RankState::kEnded, R::kEndpoint, RankState::kEnded, "late, ignored"},
    {RankState::kEnded, R::kResult, RankState::kEnded, "repeated, or late from a LOST worker: frees the slot"},
    {RankState::kEnded, R::kWorkerGone, RankState::kEnded, "had ended before"},
};

constexpr WorkerTransition kWorker[] = {
    {v1::NODE_STATE_UNKNOWN, W::kHello, v1::NODE_STATE_LIVE, "inventory reconciled"},
    {v1::NODE_STATE_UNKNOWN, W::kWindowOver, v1::NODE_STATE_LOST, "not seen within the reattach window"},
    {v1::NODE_STATE_LIVE, W::kHello, v1::NODE_STATE_LIVE, "reconnected"},
    {v1::NODE_STATE_LIVE, W::kStreamBroken, v1::NODE_STATE_LIVE, "until the lease ends"},
    {v1::NODE_STATE_LIVE, W::kLeaseOver, v1::NODE_STATE_LOST, "its ranks are lost, its slots stay taken"},
    {v1::NODE_STATE_LOST, W::kHello, v1::NODE_STATE_LIVE, "told the current fences, kills all else"},
};

template <typename State, typename Event>
std::optional<State> Look(std::span<const Transition<State, Event>> table, State state, Event event) {
  for (const auto& row : table) {
    if (row.from == state && row.event == event) return row.to;
  }
  return std::nullopt;
}

std::string Strip(const std::string& name, const char* prefix) {
  return absl::AsciiStrToLower(absl::StripPrefix(name, prefix));
}

}  // namespace

std::span<const JobTransition> JobTransitions() { return kJob; }
std::span<const StageTransition> StageTransitions() { return kStage; }
std::span<const AttemptTransition> AttemptTransitions() { return kAttempt; }
std::span<const RankTransition> RankTransitions() { return kRank; }
std::span<const WorkerTransition> WorkerTransitions() { return kWorker; }

std::optional<v1::JobState> Next(v1::JobState state, JobEvent event) { return Look(JobTransitions(), state, event); }
std::optional<v1::StageState> Next(v1::StageState state, StageEvent event) {
  return Look(StageTransitions(), state, event);
}
std::optional<v1::AttemptState> Next(v1::AttemptState state, AttemptEvent event) {
  return Look(AttemptTransitions(), state, event);
}
std::optional<RankState> Next(RankState state, RankEvent event) { return Look(RankTransitions(), state, event); }
std::optional<v1::NodeState> Next(v1::NodeState state, WorkerEvent event) {
  return Look(WorkerTransitions(), state, event);
}

CommandEffect OnCancel(v1::StageState state) {
  switch (state) {
    case v1::STAGE_STATE_BLOCKED:
    case v1::STAGE_STATE_QUEUED:
    case v1::STAGE_STATE_BACKOFF:
      return CommandEffect::kCancelNow;
    case v1::STAGE_STATE_ACTIVE:
      return CommandEffect::kStopAttempt;
    case v1::STAGE_STATE_PUBLISHING:
      return CommandEffect::kCancelAfterPublishing;
    default:
      return CommandEffect::kNothing;
  }
}

CommandEffect OnRetry(v1::StageState state) {
  if (state == v1::STAGE_STATE_FAILED) return CommandEffect::kRequeue;
  if (state == v1::STAGE_STATE_UPSTREAM_FAILED) return CommandEffect::kUnblock;
  return CommandEffect::kNothing;
}

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED;
}
bool IsGood(v1::StageState state) { return state == v1::STAGE_STATE_SUCCEEDED || state == v1::STAGE_STATE_REUSED; }
bool IsFinal(v1::StageState state) {
  return IsGood(state) || state == v1::STAGE_STATE_FAILED || state == v1::STAGE_STATE_UPSTREAM_FAILED ||
         state == v1::STAGE_STATE_CANCELLED;
}

std::string Word(v1::JobState state) { return Strip(v1::JobState_Name(state), "JOB_STATE_"); }
std::string Word(v1::StageState state) { return Strip(v1::StageState_Name(state), "STAGE_STATE_"); }
std::string Word(v1::AttemptState state) { return Strip(v1::AttemptState_Name(state), "ATTEMPT_STATE_"); }
std::string Word(v1::NodeState state) { return Strip(v1::NodeState_Name(state), "NODE_STATE_"); }
std::string Word(v1::FailureClass failure) { return Strip(v1::FailureClass_Name(failure), "FAILURE_CLASS_"); }
std::string Word(v1::StopCause cause) { return Strip(v1::StopCause_Name(cause), "STOP_CAUSE_"); }
std::string Word(v1::RankPhase phase) { return Strip(v1::RankPhase_Name(phase), "RANK_PHASE_"); }

}  // namespace vlm::coordinator
