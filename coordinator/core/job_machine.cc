// Jobs: what a person asks for, and the state that follows from a job's stages.
#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/digest.h"
#include "coordinator/core/core.h"
#include "coordinator/core/retry_policy.h"
#include "spec/canonical.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kSuffixBytes = 5;  // 8 characters of base 32
constexpr size_t kStageUidBytes = 16;
constexpr size_t kStageIndexBytes = 2;  // of them

std::string Suffix(const std::string& bytes) {
  static constexpr char kAlphabet[] = "abcdefghijkmnpqrstuvwxyz23456789";
  uint64_t bits = 0;
  for (const char c : bytes) bits = bits << 8 | static_cast<uint8_t>(c);
  std::string text;
  for (size_t i = 0; i < kSuffixBytes * 8 / 5; ++i, bits >>= 5) text += kAlphabet[bits & 31];
  return text;
}

void SetDuration(absl::Duration from, google::protobuf::Duration* to) {
  to->set_seconds(absl::ToInt64Seconds(from));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(from - absl::Seconds(to->seconds()))));
}

std::string By(const std::string& actor, const std::string& note) {
  std::string text = actor.empty() ? "" : absl::StrCat("by ", actor);
  if (!note.empty()) absl::StrAppend(&text, text.empty() ? "" : ": ", note);
  return text;
}

std::string BytesOf(const Digest& digest) { return std::string(digest.bytes.begin(), digest.bytes.end()); }
std::string Sha256Bytes(const std::string& text) { return BytesOf(Sha256Of(text)); }

// The end of a stage's uid. Rows of one job's stages lie side by side in the store, which takes and gives them faster.
std::string StageIndex(size_t index) { return {static_cast<char>(index >> 8 & 0xff), static_cast<char>(index & 0xff)}; }

// Equal to no submit's: this text is no job file.
std::string RetryPayload(const std::string& job_id) { return Sha256Bytes(absl::StrCat("retry ", job_id)); }

absl::Status NoSuchJob(const std::string& job_id) {
  return absl::NotFoundError(absl::StrCat("no such job; `vlmctl list` shows them: ", job_id));
}

// Whether the stage's input is more than other stages' artifacts.
bool ReadsDataRoot(const spec::Stage& stage) {
  if (const auto* tokenizer = std::get_if<spec::TokenizerSettings>(&stage.settings)) {
    return std::any_of(tokenizer->text.begin(), tokenizer->text.end(),
                       [](const spec::TextRef& text) { return text.stage.empty(); });
  }
  const auto* index = std::get_if<spec::IndexSettings>(&stage.settings);
  return index != nullptr && std::any_of(index->sources.begin(), index->sources.end(),
                                         [](const spec::IndexSource& source) { return source.from.stage.empty(); });
}

JobEvent EventTowards(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_RUNNING:
      return JobEvent::kAttemptOpened;
    case v1::JOB_STATE_CANCELLING:
      return JobEvent::kCancelled;
    case v1::JOB_STATE_CANCELLED:
      return JobEvent::kLastAttemptEnded;
    case v1::JOB_STATE_SUCCEEDED:
      return JobEvent::kAllSucceeded;
    case v1::JOB_STATE_FAILED:
      return JobEvent::kFailed;
    default:
      return JobEvent::kRetried;
  }
}

}  // namespace

SubmitJob::SubmitJob(uint64_t call_number, spec::Job parsed, std::string yaml, std::string request, std::string who)
    : call(call_number),
      job(std::move(parsed)),
      job_yaml(std::move(yaml)),
      payload(Sha256Bytes(job_yaml)),
      request_id(std::move(request)),
      actor(std::move(who)) {
  for (const spec::Stage& stage : job.stages) {
    stages.push_back(spec::MakeCanonical(stage));
    ancestors.push_back(spec::Ancestors(job, stage.name));
  }
}

absl::Status Coordinator::Core::CheckSubmit(const SubmitJob& input) const {
  if (input.request_id.empty() || input.request_id.size() > kRequestIdBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("request_id needs 1 to ", kRequestIdBytesMax, " bytes, got ", input.request_id.size()));
  }
  if (!input.room.ok()) return input.room;
  if (input.job.stages.empty()) return absl::InvalidArgumentError("a job needs at least one stage");
  if (input.job.artifacts.empty() && options_.default_artifacts.empty()) {
    return absl::InvalidArgumentError("spec.artifacts is needed: this service has no default folder");
  }
  if (live_jobs_ >= options_.live_jobs_max) {
    return absl::ResourceExhaustedError(absl::StrCat("too many unfinished jobs; cancel some or wait: ", live_jobs_));
  }
  return absl::OkStatus();
}

void Coordinator::Core::On(const SubmitJob& input) {
  v1::SubmitJobResponse response;
  if (const auto known = ledger_.requests.find(input.request_id); known != ledger_.requests.end()) {
    if (known->second.payload() != input.payload) {
      ledger_.Answer({input.call,
                      absl::AlreadyExistsError(absl::StrCat("this request_id was used for another request; choose a "
                                                            "new one: ",
                                                            input.request_id)),
                      {}});
      return;
    }
    response.set_job_id(known->second.job_id());
    ledger_.Answer({input.call, absl::OkStatus(), response});
    return;
  }
  if (absl::Status status = CheckSubmit(input); !status.ok()) {
    ledger_.Answer({input.call, std::move(status), {}});
    return;
  }
  Job* job = MakeJob(input);
  Remember(input.request_id, job->record.job_id(), input.payload);
  ledger_.Put(kJobYamlFamily, job->record.job_id(), input.job_yaml);
  ledger_.Event(job, nullptr, "job.submitted", By(input.actor, ""));
  ResolveBlocked(job);
  DeriveJob(job);
  response.set_job_id(job->record.job_id());
  ledger_.Answer({input.call, absl::OkStatus(), response});
}

void Coordinator::Core::Remember(const std::string& request_id, const std::string& job_id, const std::string& payload) {
  v1::RequestRecord request;
  request.set_job_id(job_id);
  request.set_payload(payload);
  ledger_.Put(kRequestFamily, request_id, request.SerializeAsString());
  ledger_.requests[request_id] = std::move(request);
}

Job* Coordinator::Core::MakeJob(const SubmitJob& input) {
  const spec::Job& from = input.job;
  std::string job_id;
  do {
    job_id = absl::StrCat(from.name, "-", Suffix(options_.random_bytes(kSuffixBytes)));
  } while (ledger_.jobs.contains(job_id));
  auto owned = std::make_unique<Job>();
  Job* job = owned.get();
  ledger_.jobs[job_id] = std::move(owned);
  v1::JobRecord& record = job->record;
  ledger_.meta.set_jobs(ledger_.meta.jobs() + 1);
  ledger_.TouchMeta();
  record.set_job_id(job_id);
  record.set_name(from.name);
  record.set_sequence(ledger_.meta.jobs());
  record.set_state(v1::JOB_STATE_PENDING);
  record.set_intent(v1::INTENT_RUN);
  record.set_actor(input.actor);
  record.set_request_id(input.request_id);
  *record.mutable_submitted_at() = Timestamp(ledger_.now.wall);
  record.set_artifacts(from.artifacts.empty() ? options_.default_artifacts : from.artifacts);
  if (from.gpu.has_value()) record.set_device(*from.gpu > 0 ? v1::DEVICE_KIND_CUDA : v1::DEVICE_KIND_CPU_SLOT);
  record.set_no_progress_max(from.no_progress_restarts_max);
  for (const auto& [failure, rule] : from.retry) {
    v1::RetryRecord* retry = record.add_retry();
    retry->set_failure(static_cast<v1::FailureClass>(failure));
    retry->set_limited(rule.limit.has_value());
    retry->set_limit(rule.limit.value_or(0));
    SetDuration(rule.backoff_base, retry->mutable_base());
    retry->set_factor(rule.backoff_factor);
    SetDuration(rule.backoff_max, retry->mutable_max());
  }
  ledger_.jobs_by_sequence[record.sequence()] = job;
  const std::string uids = options_.random_bytes(kStageUidBytes - kStageIndexBytes);
  for (size_t i = 0; i < from.stages.size(); ++i) {
    Stage* const stage = MakeStage(absl::StrCat(uids, StageIndex(i)), from.stages[i], input.stages[i], job);
    for (const std::string& ancestor : input.ancestors[i]) stage->record.add_inputs(ancestor);
  }
  ++live_jobs_;
  ledger_.Touch(*job);
  return job;
}

Stage* Coordinator::Core::MakeStage(std::string uid, const spec::Stage& from, const spec::CanonicalStage& canonical,
                                    Job* job) {
  auto owned = std::make_unique<Stage>();
  Stage* const stage = owned.get();
  stage->job = job;
  stage->index = static_cast<int32_t>(job->stages.size());
  v1::StageRecord& record = stage->record;
  record.set_stage_uid(std::move(uid));
  record.set_job_id(job->record.job_id());
  record.set_name(from.name);
  record.set_kind(std::string(spec::StageKindName(from.kind)));
  record.set_pool(spec::IsPool(from.kind));
  record.set_ranks_min(from.ranks.min);
  record.set_ranks_max(from.ranks.max);
  record.set_shards(from.shards);
  for (const std::string& need : from.needs) record.add_needs(need);
  record.set_seed(from.seed);
  record.set_semantic_digest(BytesOf(canonical.semantic_digest));
  record.set_reads_data_root(ReadsDataRoot(from));
  if (const auto* training = std::get_if<spec::TrainingSettings>(&from.settings)) {
    record.set_keep_last(static_cast<uint32_t>(training->checkpoint.keep_last));
    record.set_keep_every(static_cast<uint64_t>(training->checkpoint.keep_every));
    record.set_steps(static_cast<uint64_t>(training->train.length.steps.value_or(0)));
  }
  record.set_state(v1::STAGE_STATE_BLOCKED);
  record.set_reason("waits for its parents");
  stage->spec_json = canonical.json;
  stage->shards = ShardTable(from.shards);
  job->record.add_stage_uids(record.stage_uid());
  ledger_.stages[record.stage_uid()] = stage;
  ledger_.Put(kStageSpecFamily, record.stage_uid(), stage->spec_json);
  ledger_.Touch(*stage);
  job->stages.push_back(std::move(owned));
  return stage;
}

void Coordinator::Core::On(const CancelJob& input) {
  const auto it = ledger_.jobs.find(input.request.job_id());
  if (it == ledger_.jobs.end()) {
    ledger_.Answer({input.call, NoSuchJob(input.request.job_id()), {}});
    return;
  }
  Job* job = it->second.get();
  if (!IsFinal(job->record.state()) && job->record.intent() != v1::INTENT_CANCEL) {
    job->record.set_intent(v1::INTENT_CANCEL);
    ledger_.Touch(*job);
    ledger_.Event(job, nullptr, "job.cancel", By(input.actor, input.request.note()));
    for (const auto& stage : job->stages) {
      switch (OnCancel(stage->record.state())) {
        case CommandEffect::kCancelNow:
          Fire(stage.get(), StageEvent::kCancelled, "cancelled");
          break;
        case CommandEffect::kStopAttempt:
          StopAttempt(stage.get(), v1::STOP_CAUSE_CANCEL, "cancelled");
          break;
        default:
          break;  // publishing ends first; final stages stay
      }
    }
    DeriveJob(job);
  }
  v1::CancelJobResponse response;
  response.set_state(job->record.state());
  ledger_.Answer({input.call, absl::OkStatus(), response});
}

// The job to retry; `repeated` when this request was taken before. Else why it cannot be taken.
absl::StatusOr<Job*> Coordinator::Core::FindRetry(const v1::RetryJobRequest& request, const std::string& payload,
                                                  bool* repeated) {
  if (request.request_id().size() > kRequestIdBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("request_id has at most ", kRequestIdBytesMax, " bytes, got ", request.request_id().size()));
  }
  const auto job = ledger_.jobs.find(request.job_id());
  if (job == ledger_.jobs.end()) return NoSuchJob(request.job_id());
  const auto known = ledger_.requests.find(request.request_id());
  *repeated = !request.request_id().empty() && known != ledger_.requests.end();
  if (*repeated && known->second.payload() != payload) {
    return absl::AlreadyExistsError(
        absl::StrCat("this request_id was used for another request; choose a new one: ", request.request_id()));
  }
  return job->second.get();
}

void Coordinator::Core::On(const RetryJob& input) {
  const std::string payload = RetryPayload(input.request.job_id());
  bool repeated = false;
  const absl::StatusOr<Job*> found = FindRetry(input.request, payload, &repeated);
  if (!found.ok()) {
    ledger_.Answer({input.call, found.status(), {}});
    return;
  }
  Job* const job = *found;
  v1::RetryJobResponse response;
  if (repeated) {
    response.set_state(job->record.state());
    ledger_.Answer({input.call, absl::OkStatus(), response});
    return;
  }
  const bool any = std::any_of(job->stages.begin(), job->stages.end(), [](const auto& stage) {
    return OnRetry(stage->record.state()) == CommandEffect::kRequeue;
  });
  if (job->record.intent() != v1::INTENT_RUN || !any) {
    ledger_.Answer(
        {input.call,
         absl::FailedPreconditionError(absl::StrCat("only a job with a failed stage can be retried; ",
                                                    job->record.job_id(), " is ", Word(job->record.state()))),
         {}});
    return;
  }
  if (!input.request.request_id().empty()) {
    Remember(input.request.request_id(), job->record.job_id(), payload);
  }
  ledger_.Event(job, nullptr, "job.retry", By(input.actor, input.request.note()));
  job->record.set_attempted(std::any_of(job->stages.begin(), job->stages.end(), [](const auto& stage) {
    return stage->record.state() == v1::STAGE_STATE_ACTIVE || stage->record.state() == v1::STAGE_STATE_PUBLISHING;
  }));
  job->record.clear_ended_at();
  ledger_.Touch(*job);
  for (const auto& stage : job->stages) {
    const CommandEffect effect = OnRetry(stage->record.state());
    if (effect == CommandEffect::kNothing) continue;
    ResetBudget(&stage->record);
    for (const uint32_t shard : stage->shards.ForgetPoisoned()) {
      ledger_.Delete(kShardFamily, ShardKey(stage->record.stage_uid(), shard));
    }
    Fire(stage.get(), StageEvent::kRetried, "retried");
  }
  ResolveBlocked(job);
  DeriveJob(job);
  response.set_state(job->record.state());
  ledger_.Answer({input.call, absl::OkStatus(), response});
}

v1::JobState Coordinator::Core::DerivedState(const Job& job) const {
  bool all_final = true, all_good = true;
  for (const auto& stage : job.stages) {
    all_final = all_final && IsFinal(stage->record.state());
    all_good = all_good && IsGood(stage->record.state());
  }
  if (all_good) return v1::JOB_STATE_SUCCEEDED;
  if (job.record.intent() == v1::INTENT_CANCEL) return all_final ? v1::JOB_STATE_CANCELLED : v1::JOB_STATE_CANCELLING;
  if (all_final) return v1::JOB_STATE_FAILED;
  return job.record.attempted() ? v1::JOB_STATE_RUNNING : v1::JOB_STATE_PENDING;
}

// No stage of this job runs again: what only an attempt needs need not fill the memory.
void Coordinator::Core::DropSpecs(Job* job) {
  for (const auto& stage : job->stages) {
    stage->spec_json.clear();
    stage->spec_json.shrink_to_fit();
  }
}

void Coordinator::Core::DeriveJob(Job* job) {
  const v1::JobState state = DerivedState(*job);
  if (state == job->record.state()) return;
  const auto next = Next(job->record.state(), EventTowards(state));
  VLM_CHECK(next == state, absl::StrCat("a job cannot go from ", Word(job->record.state()), " to ", Word(state)));
  live_jobs_ += IsFinal(job->record.state()) - IsFinal(state);
  std::string reason;
  for (const auto& stage : job->stages) {
    if (stage->record.state() == v1::STAGE_STATE_FAILED && reason.empty()) {
      reason = absl::StrCat("stage ", stage->record.name(), " failed: ", stage->record.reason());
    }
  }
  job->record.set_state(state);
  job->record.set_reason(reason);
  if (IsFinal(state)) *job->record.mutable_ended_at() = Timestamp(ledger_.now.wall);
  if (state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_CANCELLED) DropSpecs(job);
  ledger_.Touch(*job);
  ledger_.Event(job, nullptr, absl::StrCat("job.", Word(state)), reason);
}

}  // namespace vlm::coordinator
