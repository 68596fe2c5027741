#include "coordinator/core/coordinator.h"

#include <algorithm>
#include <map>
#include <utility>
#include <variant>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/core/core.h"

namespace vlm::coordinator {
namespace {

template <typename Record>
absl::Status Parse(std::string_view family, std::string_view key, std::string_view value, Record* record) {
  if (record->ParseFromArray(value.data(), static_cast<int>(value.size()))) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("a row of the coordinator's store does not parse; restore the store from a backup: family ",
                   std::string(family), ", key ", absl::CEscape(absl::string_view(key.data(), key.size()))));
}

// The place of `key`, made if need be; rows come in order of their keys, so it is mostly behind all others.
template <typename Value>
Value& At(std::map<std::string, Value>* rows, const std::string& key) {
  return rows->try_emplace(rows->end(), key)->second;
}

absl::Status Contradiction(std::string_view what, std::string_view id) {
  return absl::DataLossError(
      absl::StrCat("rows of the coordinator's store contradict each other; restore it from a "
                   "backup: ",
                   std::string(what), " ", absl::CEscape(absl::string_view(id.data(), id.size()))));
}

// What the decisions take for granted: states of this version, an attempt where one is live, the parents and workers
// that are named.
absl::Status CheckStages(Job* job, const WorkerTable& workers) {
  for (const std::unique_ptr<Stage>& stage : job->stages) {
    const v1::StageRecord& record = stage->record;
    if (record.state() == v1::STAGE_STATE_UNSPECIFIED || !v1::StageState_IsValid(record.state())) {
      return Contradiction("state of no version, of stage", record.stage_uid());
    }
    for (const auto* const names : {&record.needs(), &record.inputs()}) {
      for (const std::string& name : *names) {
        if (job->Find(name) == nullptr) return Contradiction("no such parent of a stage:", name);
      }
    }
    const bool live = stage->attempt.has_value() && stage->attempt->record.state() != v1::ATTEMPT_STATE_ENDED;
    if (live != (record.state() == v1::STAGE_STATE_ACTIVE)) {
      return Contradiction("ACTIVE and a live attempt go together, of stage", record.stage_uid());
    }
    if (!live) continue;
    const v1::AttemptRecord& attempt = stage->attempt->record;
    if (attempt.state() == v1::ATTEMPT_STATE_UNSPECIFIED || !v1::AttemptState_IsValid(attempt.state()) ||
        attempt.stage_uid() != record.stage_uid() || attempt.fence() != record.fence()) {
      return Contradiction("attempt that is not of stage", record.stage_uid());
    }
    for (const v1::RankRecord& rank : attempt.ranks()) {
      if (!rank.ended() && workers.Find(rank.node_id()) == nullptr) {
        return Contradiction("no row of a rank's worker", rank.node_id());
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

Coordinator::Coordinator(CoordinatorOptions options) : core_(std::make_unique<Core>(std::move(options))) {}
Coordinator::~Coordinator() = default;
absl::Status Coordinator::AddRow(std::string_view family, std::string_view key, std::string_view value) {
  return core_->AddRow(family, key, value);
}
absl::StatusOr<Outputs> Coordinator::Start(Now now) { return core_->Start(now); }
Outputs Coordinator::Handle(Now now, const Input& input) { return core_->Handle(now, input); }
absl::Duration Coordinator::NextWake() const { return core_->NextWake(); }
absl::StatusOr<v1::Job> Coordinator::GetJob(std::string_view job_id) const { return core_->GetJob(job_id); }
absl::StatusOr<v1::ListJobsResponse> Coordinator::ListJobs(const v1::ListJobsRequest& request) const {
  return core_->ListJobs(request);
}
v1::ListNodesResponse Coordinator::ListNodes() const { return core_->ListNodes(); }
absl::StatusOr<v1::Progress> Coordinator::GetProgress(std::string_view job_id, std::string_view stage) const {
  return core_->GetProgress(job_id, stage);
}
Counts Coordinator::Count() const { return core_->Count(); }
std::map<std::string, absl::Duration> Coordinator::Waited(absl::Duration now) const { return core_->Waited(now); }
uint64_t Coordinator::epoch() const { return core_->epoch(); }
uint64_t Coordinator::last_event() const { return core_->last_event(); }
std::string Coordinator::NodeOf(uint64_t session) const { return core_->NodeOf(session); }
absl::Status Coordinator::CheckWriter(const std::string& stage_uid, uint64_t fence, const std::string& node_id) const {
  return core_->CheckWriter(stage_uid, fence, node_id);
}
absl::Status Coordinator::CheckInvariants() const { return core_->CheckInvariants(); }

Coordinator::Core::Core(CoordinatorOptions options)
    : options_(std::move(options)), workers_(&options_, &ledger_), last_handle_(-absl::InfiniteDuration()) {
  VLM_CHECK(options_.random_bytes != nullptr, "the coordinator needs a source of random bytes");
}

absl::Status Coordinator::Core::AddRow(std::string_view family, std::string_view key, std::string_view value) {
  const std::string id(key);
  absl::Status status;
  if (family == kMetaFamily) return Parse(family, key, value, &ledger_.meta);
  if (family == kJobFamily) {
    auto& job = At(&ledger_.jobs, id);
    if (job == nullptr) job = std::make_unique<Job>();
    return Parse(family, key, value, &job->record);
  }
  if (family == kRequestFamily) return Parse(family, key, value, &At(&ledger_.requests, id));
  if (family == kOutputFamily) return Parse(family, key, value, &At(&ledger_.outputs_by_key, id));
  if (family == kNodeFamily) {
    v1::NodeRecord record;
    status = Parse(family, key, value, &record);
    if (status.ok()) workers_.Restore(std::move(record));
    return status;
  }
  // The rest belongs to a stage, which may come later.
  if (family == kShardFamily && key.size() < 4) return Contradiction("shard key", key);
  const std::string uid = family == kShardFamily ? id.substr(0, id.size() - 4) : id;
  std::unique_ptr<Stage>& stage = restoring_[uid];
  if (stage == nullptr) stage = std::make_unique<Stage>();
  if (family == kStageFamily) return Parse(family, key, value, &stage->record);
  if (family == kStageSpecFamily) {
    stage->spec_json = std::string(value);
    return absl::OkStatus();
  }
  if (family == kAttemptFamily) {
    stage->attempt.emplace();
    return Parse(family, key, value, &stage->attempt->record);
  }
  VLM_CHECK(family == kShardFamily, "AddRow takes rows of RestoredFamilies()");
  v1::ShardRecord record;
  status = Parse(family, key, value, &record);
  if (status.ok())
    stage->shards.Restore(static_cast<uint32_t>(DecodeU64(std::string(4, '\0') + id.substr(uid.size()))), record);
  return status;
}

absl::Status Coordinator::Core::LinkRows() {
  ledger_.stages.reserve(restoring_.size());
  for (auto& [job_id, job] : ledger_.jobs) {
    if (job->record.job_id() != job_id) return Contradiction("job row under another key", job_id);
    ledger_.jobs_by_sequence[job->record.sequence()] = job.get();
    live_jobs_ += !IsFinal(job->record.state());
    for (const std::string& uid : job->record.stage_uids()) {
      const auto it = restoring_.find(uid);
      if (it == restoring_.end() || it->second->record.stage_uid() != uid) return Contradiction("no stage row", uid);
      std::unique_ptr<Stage> stage = std::move(it->second);
      restoring_.erase(it);
      stage->job = job.get();
      stage->index = static_cast<int32_t>(job->stages.size());
      stage->shards.SetCount(stage->record.shards());
      ledger_.stages[uid] = stage.get();
      job->stages.push_back(std::move(stage));
    }
    VLM_RETURN_IF_ERROR(CheckStages(job.get(), workers_));
    const v1::JobState state = job->record.state();
    if (DerivedState(*job) != state) return Contradiction("state that does not follow from its stages, of job", job_id);
    if (state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_CANCELLED) DropSpecs(job.get());
  }
  const auto orphan = std::min_element(restoring_.begin(), restoring_.end(),
                                       [](const auto& a, const auto& b) { return a.first < b.first; });
  if (orphan != restoring_.end()) return Contradiction("rows of a stage without a job", orphan->first);
  return absl::OkStatus();
}

absl::StatusOr<Outputs> Coordinator::Core::Start(Now now) {
  ledger_.now = now;
  if (ledger_.meta.format() > kStoreFormat) {
    return absl::FailedPreconditionError(absl::StrCat("the store was written by a newer coordinator; format here ",
                                                      kStoreFormat, ", there ", ledger_.meta.format()));
  }
  const absl::Status linked = LinkRows();
  if (!linked.ok()) return linked;
  ledger_.meta.set_format(kStoreFormat);
  ledger_.meta.set_epoch(ledger_.meta.epoch() + 1);
  ledger_.TouchMeta();
  ledger_.SkipLeaseIds();
  workers_.OpenWindow(now.monotonic);
  last_handle_ = now.monotonic;
  ledger_.Event(nullptr, nullptr, "coordinator.started", absl::StrCat("epoch ", ledger_.meta.epoch()));
  Resume();
  Schedule();
  return ledger_.TakeOutputs();
}

// Every state names what it wants; nothing was queued before the restart.
void Coordinator::Core::Resume() {
  for (auto& [id, job] : ledger_.jobs) {
    for (const std::unique_ptr<Stage>& stage : job->stages) ResumeStage(stage.get());
  }
  for (auto& [id, job] : ledger_.jobs) {
    if (!IsFinal(job->record.state())) ResolveBlocked(job.get());
  }
}

void Coordinator::Core::ResumeStage(Stage* stage) {
  switch (stage->record.state()) {
    case v1::STAGE_STATE_QUEUED:
      queue_.Add(KeyOf(*stage));
      stage->waits_since = now();
      schedule_ = true;
      break;
    case v1::STAGE_STATE_BACKOFF:
      stage->backoff_until =
          now() + absl::Seconds(stage->record.backoff().seconds()) + absl::Nanoseconds(stage->record.backoff().nanos());
      ledger_.busy.insert(stage->record.stage_uid());
      break;
    case v1::STAGE_STATE_PUBLISHING:
      WantCall(stage);
      break;
    case v1::STAGE_STATE_ACTIVE: {
      ledger_.busy.insert(stage->record.stage_uid());
      Attempt& attempt = *stage->attempt;
      attempt.since = now();
      attempt.stop_sent = now();
      for (const v1::RankRecord& rank : attempt.record.ranks()) {
        LiveRank& live = attempt.live[rank.rank()];
        live.beat_at = live.moved_at = live.step_at = now();
        if (rank.ended()) live.state = RankState::kEnded;
      }
      if (attempt.record.state() == v1::ATTEMPT_STATE_FENCING) WantCall(stage);
      break;
    }
    default:
      break;
  }
}

Outputs Coordinator::Core::Handle(Now now, const Input& input) {
  now.wall = std::max(now.wall, ledger_.now.wall);
  ledger_.now = now;
  NoticeStall();
  std::visit([this](const auto& message) { On(message); }, input);
  Schedule();
  return ledger_.TakeOutputs();
}

absl::Duration Coordinator::Core::NextWake() const {
  const bool pending = !workers_.all().empty() || !ledger_.busy.empty() || root_waiting_;
  return pending ? last_tick_ + options_.tick : absl::InfiniteDuration();
}

// While this loop stood still, nobody could renew a lease, of a worker or of a shard, and no beat was read: silence
// then proves nothing.
void Coordinator::Core::NoticeStall() {
  const bool ticking = NextWake() != absl::InfiniteDuration();
  const bool stalled = ticking && now() - last_handle_ > options_.tick + options_.stall;
  last_handle_ = now();
  if (!stalled) return;
  workers_.OpenWindow(now());
  for (const std::string& uid : ledger_.busy) {
    Stage* stage = ledger_.stages.at(uid);
    stage->shards.ExtendLeases(now() + options_.shard_lease);
    if (!stage->attempt.has_value()) continue;
    for (auto& [number, rank] : stage->attempt->live) rank.beat_at = rank.moved_at = rank.step_at = now();
  }
}

void Coordinator::Core::OnTime() {
  last_tick_ = now();
  for (Worker* worker : workers_.TakeLost()) LoseWorker(worker);
  ForgetWorkers();
  const std::vector<std::string> busy(ledger_.busy.begin(), ledger_.busy.end());
  for (const std::string& uid : busy) {
    Stage* stage = ledger_.stages.at(uid);
    WantCall(stage);
    TickBackoff(stage);
    TickAttempt(stage);
  }
  TickRoots();
}

}  // namespace vlm::coordinator
