// Stages: from their parents' end to their own.
#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/utf8.h"
#include "coordinator/core/core.h"
#include "coordinator/core/retry_policy.h"

namespace vlm::coordinator {
namespace {

// Part of every stage key: a change of what a kind of stage computes, of the data order, the packing or the
// numerics gets a new number here, and nothing older is reused.
constexpr std::string_view kComputationVersion = "kinds=1 order=1 packing=1 numerics=1";

constexpr char kReadsDataRoot[] = "no reuse: it reads files below the data root, which may have changed";

// Codes that the same call may not meet the next time.
bool MayPass(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return true;
    default:
      return false;
  }
}

std::string Text(const absl::Status& status) {
  return CutUtf8({status.message().data(), status.message().size()}, kMessageBytesMax);
}

// SHA-256 over the semantic digest, the computation's version and every input's digest, in order. Files below a
// worker's data root may change without a trace here, so that the key of a stage that reads them is its own; its
// children's keys hold the digest of what it made of them.
std::string StageKey(const Job& job, const Stage& stage) {
  Sha256 hash;
  hash.Update(std::string_view("vlm stage key 1\n"));
  hash.Update(kComputationVersion);
  hash.Update(std::string_view("\n"));
  hash.Update(stage.record.kind());
  hash.Update(std::string_view("\n"));
  hash.Update(stage.record.semantic_digest());
  for (const std::string& input : stage.record.inputs()) {
    for (const auto& other : job.stages) {
      if (other->record.name() == input) hash.Update(absl::StrCat("\n", input, " ", other->record.artifact_digest()));
    }
  }
  if (stage.record.reads_data_root()) hash.Update(absl::StrCat("\nread by ", stage.record.stage_uid()));
  const Digest key = hash.Finish();
  return std::string(key.bytes.begin(), key.bytes.end());
}

}  // namespace

QueueKey Coordinator::Core::KeyOf(const Stage& stage) const {
  return {stage.job->record.sequence(), stage.index, stage.record.stage_uid()};
}

void Coordinator::Core::UpdateBusy(Stage* stage) {
  const v1::StageState state = stage->record.state();
  const bool busy = state == v1::STAGE_STATE_ACTIVE || state == v1::STAGE_STATE_BACKOFF ||
                    state == v1::STAGE_STATE_PUBLISHING || (state == v1::STAGE_STATE_BLOCKED && stage->call.wanted);
  if (busy) {
    ledger_.busy.insert(stage->record.stage_uid());
  } else {
    ledger_.busy.erase(stage->record.stage_uid());
  }
}

void Coordinator::Core::Fire(Stage* stage, StageEvent event, std::string reason) {
  v1::StageRecord& record = stage->record;
  const auto next = Next(record.state(), event);
  VLM_CHECK(next.has_value(), absl::StrCat("stage ", record.name(), " in state ", Word(record.state()),
                                           " cannot take event ", static_cast<int>(event)));
  if (record.state() == v1::STAGE_STATE_QUEUED) {
    CountWait(stage);
    queue_.Remove(KeyOf(*stage));
  }
  record.set_state(*next);
  record.set_reason(reason);
  stage->call = WantedCall();
  stage->wait_kind.clear();
  stage->waits_since = now();
  if (*next == v1::STAGE_STATE_QUEUED) queue_.Add(KeyOf(*stage));
  if (*next == v1::STAGE_STATE_ACTIVE && !record.has_started_at()) {
    *record.mutable_started_at() = Timestamp(ledger_.now.wall);
  }
  if (IsFinal(*next)) {
    *record.mutable_ended_at() = Timestamp(ledger_.now.wall);
    stage->shards.DropLeases();
  } else {
    record.clear_ended_at();
  }
  schedule_ = true;
  ledger_.Touch(*stage);
  ledger_.Event(stage->job, stage, absl::StrCat("stage.", Word(*next)), std::move(reason));
  UpdateBusy(stage);
  if (*next == v1::STAGE_STATE_PUBLISHING) WantCall(stage);
  if (IsFinal(*next)) ResolveBlocked(stage->job);
  DeriveJob(stage->job);
}

void Coordinator::Core::ResolveBlocked(Job* job) {
  if (job->record.intent() != v1::INTENT_RUN) return;
  for (const auto& stage : job->stages) {
    if (stage->record.state() != v1::STAGE_STATE_BLOCKED) continue;
    bool ready = true;
    std::string failed;
    for (const std::string& need : stage->record.needs()) {
      const Stage* parent = job->Find(need);
      VLM_CHECK(parent != nullptr, "a checked job has every parent");
      const v1::StageState state = parent->record.state();
      ready = ready && IsGood(state);
      if (state == v1::STAGE_STATE_FAILED || state == v1::STAGE_STATE_UPSTREAM_FAILED) failed = need;
    }
    if (!failed.empty()) {
      Fire(stage.get(), StageEvent::kParentFailed, absl::StrCat("its parent ", failed, " failed"));
    } else if (ready) {
      LookForReuse(stage.get());
    }
  }
}

const v1::OutputRecord* Coordinator::Core::ReuseCandidate(const Stage& stage) const {
  if (stage.record.stage_key().empty() || stage.reuse_refused) return nullptr;
  const auto it = ledger_.outputs_by_key.find(stage.record.stage_key());
  if (it == ledger_.outputs_by_key.end() || it->second.root() != stage.job->record.artifacts()) return nullptr;
  return &it->second;
}

void Coordinator::Core::LookForReuse(Stage* stage) {
  if (stage->call.wanted) return;
  stage->record.set_stage_key(StageKey(*stage->job, *stage));
  ledger_.Touch(*stage);
  const v1::OutputRecord* candidate = ReuseCandidate(*stage);
  if (candidate == nullptr) {
    Fire(stage, StageEvent::kReuseMissed,
         stage->record.reads_data_root() ? absl::StrCat("its parents are done; ", kReadsDataRoot)
                                         : "its parents are done");
    return;
  }
  stage->record.set_reason(absl::StrCat("looks at the artifact of job ", candidate->job_id(), " for reuse"));
  WantCall(stage);
}

void Coordinator::Core::WantCall(Stage* stage) {
  const v1::StageRecord& record = stage->record;
  const bool fencing =
      record.state() == v1::STAGE_STATE_ACTIVE && stage->attempt->record.state() == v1::ATTEMPT_STATE_FENCING;
  const bool publishing = record.state() == v1::STAGE_STATE_PUBLISHING;
  const v1::OutputRecord* reuse = record.state() == v1::STAGE_STATE_BLOCKED ? ReuseCandidate(*stage) : nullptr;
  if (!fencing && !publishing && reuse == nullptr) {
    // The candidate it waited for is gone: another artifact of that key was published since, in another root.
    if (record.state() == v1::STAGE_STATE_BLOCKED && std::exchange(stage->call, {}).wanted) LookForReuse(stage);
    return;
  }
  if (stage->call.wanted && now() < stage->call.next) return;
  stage->call.wanted = true;
  stage->call.next = now() + options_.call_overdue;
  UpdateBusy(stage);
  if (fencing) {
    v1::OpenAttemptRequest request;
    request.set_stage_uid(record.stage_uid());
    request.set_fence(record.fence());
    v1::StageRegistration* registration = request.mutable_stage();
    registration->set_job_id(record.job_id());
    registration->set_stage(record.name());
    registration->set_root(stage->job->record.artifacts());
    registration->set_keep_last(record.keep_last());
    registration->set_keep_every(record.keep_every());
    ledger_.Effect(vlm::coordinator::OpenAttempt{std::move(request)});
    return;
  }
  if (publishing) {
    v1::CommitArtifactRequest request;
    request.set_stage_uid(record.stage_uid());
    request.set_fence(record.fence());
    request.set_kind(record.kind());
    ledger_.Effect(CommitArtifact{std::move(request)});
    return;
  }
  v1::VerifyStepRequest request;
  request.set_stage_uid(reuse->stage_uid());
  request.set_step(reuse->step());
  ledger_.Effect(VerifyStep{record.stage_uid(), std::move(request)});
}

bool Coordinator::Core::FailCall(Stage* stage, const absl::Status& status) {
  if (!MayPass(status)) return false;
  WantedCall& call = stage->call;
  call.next = now() + std::min(options_.call_retry_max, options_.call_retry_min * (1 << std::min(call.failures, 10)));
  ++call.failures;
  call.problem = Text(status);
  return true;
}

void Coordinator::Core::On(const StepVerified& input) {
  const auto it = ledger_.stages.find(input.for_stage);
  if (it == ledger_.stages.end() || !it->second->call.wanted) return;
  Stage* stage = it->second;
  const v1::OutputRecord* candidate =
      stage->record.state() == v1::STAGE_STATE_BLOCKED ? ReuseCandidate(*stage) : nullptr;
  if (candidate == nullptr || candidate->stage_uid() != input.request.stage_uid() ||
      candidate->step() != input.request.step()) {
    if (stage->record.state() != v1::STAGE_STATE_BLOCKED) return;
    stage->call.next = now();  // not of what counts now: that is asked for at once
    WantCall(stage);
    return;
  }
  if (!input.status.ok() && FailCall(stage, input.status)) return;
  if (!input.status.ok() || !input.response.damages().empty()) {
    stage->reuse_refused = true;
    Fire(stage, StageEvent::kReuseMissed,
         absl::StrCat("the artifact of job ", candidate->job_id(), " cannot be reused: ",
                      input.status.ok()
                          ? absl::StrCat(input.response.damages(0).file(), ": ", input.response.damages(0).detail())
                          : Text(input.status)));
    return;
  }
  stage->record.set_artifact_digest(candidate->digest());
  stage->record.set_artifact_folder(candidate->folder());
  Fire(stage, StageEvent::kReuseFound, absl::StrCat("same settings and inputs as in job ", candidate->job_id()));
}

void Coordinator::Core::On(const ArtifactCommitted& input) {
  const auto it = ledger_.stages.find(input.stage_uid);
  if (it == ledger_.stages.end() || it->second->record.fence() != input.fence ||
      it->second->record.state() != v1::STAGE_STATE_PUBLISHING) {
    return;
  }
  Stage* stage = it->second;
  if (!input.status.ok()) {
    if (FailCall(stage, input.status)) return;
    // The final step is missing or damaged: what made it must run again.
    if (stage->shards.ForgetFinish()) {
      ledger_.Delete(kShardFamily, ShardKey(stage->record.stage_uid(), stage->shards.shards()));
    }
    FailStage(stage, v1::FAILURE_CLASS_STORAGE, absl::StrCat("publishing failed: ", Text(input.status)));
    return;
  }
  v1::StageRecord& record = stage->record;
  record.set_artifact_digest(input.response.digest());
  record.set_artifact_folder(input.response.folder());
  v1::OutputRecord output;
  output.set_stage_uid(record.stage_uid());
  output.set_fence(record.fence());
  output.set_job_id(record.job_id());
  output.set_stage(record.name());
  output.set_kind(record.kind());
  output.set_root(stage->job->record.artifacts());
  output.set_digest(input.response.digest());
  output.set_folder(input.response.folder());
  output.set_step(input.response.step());
  ledger_.Put(kOutputFamily, record.stage_key(), output.SerializeAsString());
  ledger_.outputs_by_key[record.stage_key()] = std::move(output);
  const bool cancelled = stage->job->record.intent() == v1::INTENT_CANCEL;
  Fire(stage, cancelled ? StageEvent::kCancelled : StageEvent::kPublished,
       absl::StrCat("artifact ", input.response.digest().substr(0, 12), record.reads_data_root() ? "; " : "",
                    record.reads_data_root() ? kReadsDataRoot : ""));
}

void Coordinator::Core::On(const StepCommitted& input) {
  const auto it = ledger_.stages.find(input.stage_uid);
  if (it == ledger_.stages.end() || it->second->record.fence() != input.fence) return;
  v1::StageRecord& record = it->second->record;
  if (input.step <= record.committed_step()) return;
  record.set_committed_step(input.step);
  record.set_committed_since(true);
  ledger_.Touch(*it->second);
  ledger_.Event(it->second->job, it->second, "step.committed", absl::StrCat("step ", input.step));
}

// The attempt is ENDED: what becomes of its stage.
void Coordinator::Core::EndStageAttempt(Stage* stage) {
  const v1::AttemptRecord& attempt = stage->attempt->record;
  if (attempt.complete()) {
    Fire(stage, StageEvent::kAttemptSucceeded, "all work is done");
  } else if (stage->job->record.intent() == v1::INTENT_CANCEL) {
    Fire(stage, StageEvent::kCancelled, "cancelled");
  } else {
    FailStage(stage, attempt.failure(), attempt.message());
  }
}

void Coordinator::Core::FailStage(Stage* stage, v1::FailureClass failure, const std::string& what) {
  if (stage->job->record.intent() == v1::INTENT_CANCEL) {
    Fire(stage, StageEvent::kCancelled, absl::StrCat("cancelled; ", what));
    return;
  }
  RetryDecision decision = ChargeFailure(stage->job->record, failure, &stage->record);
  if (!decision.retry) {
    Fire(stage, StageEvent::kFailedFinal, absl::StrCat(what, "; ", decision.reason));
    return;
  }
  ++restarts_[Word(failure)];
  stage->record.set_restarts(stage->record.restarts() + 1);
  for (const uint32_t shard : stage->shards.ForgetPoisoned()) {
    ledger_.Delete(kShardFamily, ShardKey(stage->record.stage_uid(), shard));
  }
  if (failure == v1::FAILURE_CLASS_WORKER_LOST && stage->attempt.has_value() &&
      stage->attempt->cause.root().has_value()) {
    // A worker that comes straight back is worth a moment: the stage starts whole instead of smaller.
    decision.wait = std::max(decision.wait, stage->attempt->cause.root()->at + options_.lost_wait - now());
  }
  google::protobuf::Duration* backoff = stage->record.mutable_backoff();
  backoff->set_seconds(absl::ToInt64Seconds(decision.wait));
  backoff->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(decision.wait - absl::Seconds(backoff->seconds()))));
  stage->backoff_until = now() + decision.wait;
  Fire(stage, StageEvent::kFailedRetry,
       absl::StrCat(what, "; ", decision.reason, " in ",
                    absl::FormatDuration(absl::Trunc(decision.wait, absl::Milliseconds(1)))));
  TickBackoff(stage);
}

void Coordinator::Core::TickBackoff(Stage* stage) {
  if (stage->record.state() != v1::STAGE_STATE_BACKOFF || now() < stage->backoff_until) return;
  Fire(stage, StageEvent::kBackoffOver, stage->record.reason());
}

}  // namespace vlm::coordinator
