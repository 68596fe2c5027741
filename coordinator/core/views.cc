// What people and metrics see of the state. Nothing here changes anything.
#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/core.h"

namespace vlm::coordinator {
namespace {

constexpr int kListPageDefault = 100;

void SetDuration(absl::Duration from, google::protobuf::Duration* to) {
  to->set_seconds(absl::ToInt64Seconds(from));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(from - absl::Seconds(to->seconds()))));
}

std::string WaitingRanks(const Attempt& attempt) {
  std::string waiting;
  for (const v1::RankRecord& rank : attempt.record.ranks()) {
    const bool ready = attempt.live.at(rank.rank()).state != RankState::kAssigned;
    const bool stopping = attempt.record.state() == v1::ATTEMPT_STATE_STOPPING;
    if (rank.ended() || (ready && !stopping)) continue;
    absl::StrAppend(&waiting, waiting.empty() ? "" : ", ", "rank ", rank.rank(), " on ", rank.node_id());
  }
  return waiting;
}

std::string ActiveReason(const Stage& stage) {
  const Attempt& attempt = *stage.attempt;
  switch (attempt.record.state()) {
    case v1::ATTEMPT_STATE_FENCING:
      return absl::StrCat("waits for the checkpoint service to open attempt ", attempt.record.fence(),
                          stage.call.problem.empty() ? "" : ": ", stage.call.problem);
    case v1::ATTEMPT_STATE_STARTING:
      return absl::StrCat("waits for ", WaitingRanks(attempt), " to be ready");
    case v1::ATTEMPT_STATE_STOPPING:
      return absl::StrCat("stops", attempt.record.message().empty() ? "" : ": ", attempt.record.message(),
                          "; waits for ", WaitingRanks(attempt), " to be reaped");
    default:
      return absl::StrCat("runs on ", attempt.record.world(), " ranks");
  }
}

std::string ReasonOf(const Stage& stage, const StageQueue& queue, const QueueKey& key, const std::string& head) {
  switch (stage.record.state()) {
    case v1::STAGE_STATE_ACTIVE:
      return ActiveReason(stage);
    case v1::STAGE_STATE_PUBLISHING:
      return absl::StrCat("waits for the checkpoint service to commit the artifact",
                          stage.call.problem.empty() ? "" : ": ", stage.call.problem);
    case v1::STAGE_STATE_QUEUED: {
      const std::string name = absl::StrCat(stage.record.job_id(), "/", stage.record.name());
      if (head.empty() || head == name || !queue.ready().contains(key)) break;
      return absl::StrCat("waits behind ", head, ", which is first in the queue");
    }
    case v1::STAGE_STATE_BLOCKED: {
      if (stage.call.wanted) break;
      std::string waiting;
      for (const std::string& need : stage.record.needs()) {
        const Stage* parent = stage.job->Find(need);
        if (!IsGood(parent->record.state())) absl::StrAppend(&waiting, waiting.empty() ? "" : ", ", need);
      }
      return waiting.empty() ? stage.record.reason() : absl::StrCat("waits for ", waiting);
    }
    default:
      break;
  }
  return stage.record.reason();
}

void FillRanks(const Attempt& attempt, v1::Stage* view) {
  for (const v1::RankRecord& rank : attempt.record.ranks()) {
    v1::RankPlacement* placement = view->add_ranks();
    placement->set_rank(rank.rank());
    placement->set_node_id(rank.node_id());
    const auto live = attempt.live.find(rank.rank());
    const bool known = live != attempt.live.end() && !rank.ended();
    placement->set_phase(Word(known ? live->second.phase : v1::RANK_PHASE_EXITED));
    placement->set_exit_code(rank.exit_code());
    placement->set_failure(rank.failure());
    placement->set_message(rank.message());
  }
}

v1::Progress ProgressOf(const Stage& stage) {
  v1::Progress progress;
  if (stage.record.pool()) {
    progress.set_done(stage.shards.done());
    progress.set_total(stage.record.shards());
    return progress;
  }
  progress.set_total(stage.record.steps());
  progress.set_done(IsGood(stage.record.state()) ? stage.record.steps() : stage.record.committed_step());
  if (stage.record.state() != v1::STAGE_STATE_ACTIVE || !stage.attempt.has_value()) return progress;
  const auto rank0 = stage.attempt->live.find(0);
  if (rank0 == stage.attempt->live.end()) return progress;
  const LiveRank& live = rank0->second;
  progress.set_done(std::max(live.beat.step(), stage.attempt->record.resume().step()));
  progress.set_loss(live.beat.loss());
  progress.set_tokens_per_second(live.beat.tokens_per_second());
  progress.set_images_per_second(live.beat.images_per_second());
  if (!live.step_times.empty() && progress.total() > progress.done()) {
    absl::Duration sum;
    for (const absl::Duration time : live.step_times) sum += time;
    const auto left = static_cast<int64_t>(progress.total() - progress.done());
    SetDuration(sum / static_cast<int64_t>(live.step_times.size()) * left, progress.mutable_left());
  }
  return progress;
}

std::string NextAction(const Job& job) {
  const std::string& id = job.record.job_id();
  if (job.record.state() == v1::JOB_STATE_FAILED) {
    return absl::StrCat("read `vlmctl logs ", id, "`, mend the cause, then `vlmctl retry ", id, "`");
  }
  for (const auto& stage : job.stages) {
    if (stage->record.state() != v1::STAGE_STATE_QUEUED) continue;
    if (stage->wait_kind == "workers") return "start more workers, or lower ranks.min and submit again";
    if (stage->wait_kind == "root") return "mount the artifacts folder at the same path on every worker";
  }
  return "";
}

v1::Job Summary(const Job& job) {
  v1::Job view;
  view.set_job_id(job.record.job_id());
  view.set_name(job.record.name());
  view.set_state(job.record.state());
  view.set_reason(job.record.reason());
  view.set_next_action(NextAction(job));
  *view.mutable_submitted_at() = job.record.submitted_at();
  if (job.record.has_ended_at()) *view.mutable_ended_at() = job.record.ended_at();
  view.set_artifacts(job.record.artifacts());
  return view;
}

}  // namespace

absl::StatusOr<v1::Job> Coordinator::Core::GetJob(std::string_view job_id) const {
  const auto it = ledger_.jobs.find(std::string(job_id));
  if (it == ledger_.jobs.end()) {
    return absl::NotFoundError(absl::StrCat("no such job; `vlmctl list` shows them: ", std::string(job_id)));
  }
  const Job& job = *it->second;
  v1::Job view = Summary(job);
  for (const auto& stage : job.stages) {
    const v1::StageRecord& record = stage->record;
    v1::Stage* out = view.add_stages();
    out->set_name(record.name());
    out->set_kind(record.kind());
    out->set_state(record.state());
    out->set_reason(ReasonOf(*stage, queue_, KeyOf(*stage), head_));
    out->set_stage_uid(record.stage_uid());
    out->set_fence(record.fence());
    out->set_restarts(record.restarts());
    out->set_artifact_folder(record.artifact_folder());
    out->set_artifact_digest(record.artifact_digest());
    if (record.has_started_at()) *out->mutable_started_at() = record.started_at();
    if (record.has_ended_at()) *out->mutable_ended_at() = record.ended_at();
    *out->mutable_progress() = ProgressOf(*stage);
    *out->mutable_needs() = record.needs();
    if (stage->attempt.has_value()) {
      out->set_attempt_state(stage->attempt->record.state());
      out->set_world(stage->attempt->record.world());
      FillRanks(*stage->attempt, out);
    }
    if (view.reason().empty() && !IsFinal(job.record.state()) && !IsFinal(record.state())) {
      view.set_reason(absl::StrCat("stage ", record.name(), ": ", out->reason()));
    }
  }
  return view;
}

absl::StatusOr<v1::ListJobsResponse> Coordinator::Core::ListJobs(const v1::ListJobsRequest& request) const {
  if (request.page_size() < 0) {
    return absl::InvalidArgumentError(absl::StrCat("page_size must not be negative, got ", request.page_size()));
  }
  const int wanted = request.page_size() == 0 ? kListPageDefault : std::min(request.page_size(), kListPageMax);
  uint64_t below = UINT64_MAX;
  if (!request.page_token().empty() && !absl::SimpleAtoi(request.page_token(), &below)) {
    return absl::InvalidArgumentError(absl::StrCat("not a page token of this service: ", request.page_token()));
  }
  v1::ListJobsResponse response;
  auto it = ledger_.jobs_by_sequence.lower_bound(below);
  while (it != ledger_.jobs_by_sequence.begin()) {
    --it;
    if (response.jobs_size() == wanted) {
      // Pages go by submission: jobs submitted meanwhile do not shift them.
      response.set_next_page_token(absl::StrCat(it->first + 1));
      break;
    }
    *response.add_jobs() = Summary(*it->second);
  }
  return response;
}

v1::ListNodesResponse Coordinator::Core::ListNodes() const {
  v1::ListNodesResponse response;
  for (const auto& [id, worker] : workers_.all()) {
    v1::Node* node = response.add_nodes();
    node->set_node_id(id);
    node->set_hostname(worker->record.hostname());
    node->set_state(worker->state);
    *node->mutable_devices() = worker->record.devices();
    node->set_slots_free(worker->record.devices_size() - worker->record.taken_size());
    node->set_disk_free_bytes(worker->disk_free_bytes);
    node->set_incarnation(worker->record.incarnation());
    node->set_build(worker->record.build());
    if (worker->heard_wall != absl::Time()) *node->mutable_last_beat() = Timestamp(worker->heard_wall);
    for (const v1::TakenSlot& slot : worker->record.taken()) {
      if (std::find(node->attempts().begin(), node->attempts().end(), slot.attempt_id()) == node->attempts().end()) {
        node->add_attempts(slot.attempt_id());
      }
    }
  }
  return response;
}

absl::StatusOr<v1::Progress> Coordinator::Core::GetProgress(std::string_view job_id, std::string_view stage) const {
  const auto it = ledger_.jobs.find(std::string(job_id));
  const Stage* found = it == ledger_.jobs.end() ? nullptr : it->second->Find(stage);
  if (found == nullptr) {
    return absl::NotFoundError(absl::StrCat("no such stage: ", std::string(job_id), "/", std::string(stage)));
  }
  return ProgressOf(*found);
}

Counts Coordinator::Core::Count() const {
  Counts counts;
  for (const auto& [id, job] : ledger_.jobs) {
    ++counts.jobs[Word(job->record.state())];
    if (IsFinal(job->record.state())) continue;
    for (const auto& stage : job->stages) {
      ++counts.stages[Word(stage->record.state())];
      if (stage->record.state() == v1::STAGE_STATE_QUEUED) {
        const bool behind = stage->wait_kind.empty();
        ++counts.queued[behind ? "behind" : stage->wait_kind];
      }
      if (stage->record.state() == v1::STAGE_STATE_ACTIVE) ++counts.attempts[Word(stage->attempt->record.state())];
    }
  }
  for (const auto& [id, worker] : workers_.all()) {
    ++counts.nodes[Word(worker->state)];
    if (worker->state != v1::NODE_STATE_LIVE) continue;
    counts.slots += worker->record.devices_size();
    counts.slots_taken += worker->record.taken_size();
  }
  counts.restarts = restarts_;
  return counts;
}

std::string Coordinator::Core::NodeOf(uint64_t session) const {
  for (const auto& [id, worker] : workers_.all()) {
    if (session != 0 && worker->session == session) return id;
  }
  return "";
}

absl::Status Coordinator::Core::CheckWriter(const std::string& stage_uid, uint64_t fence,
                                            const std::string& node_id) const {
  const auto it = ledger_.stages.find(stage_uid);
  if (it == ledger_.stages.end()) return absl::NotFoundError("no such stage");
  const Stage& stage = *it->second;
  if (!stage.attempt.has_value() || stage.attempt->record.fence() != fence) {
    return absl::FailedPreconditionError(absl::StrCat("this attempt is over; exit; fence ", fence));
  }
  return CheckNode(stage, node_id);
}

absl::Status Coordinator::Core::CheckInvariants() const {
  for (const auto& [id, worker] : workers_.all()) {
    for (int i = 0; i < worker->record.taken_size(); ++i) {
      for (int j = 0; j < i; ++j) {
        if (SameDevice(worker->record.taken(i).device(), worker->record.taken(j).device())) {
          return absl::InternalError(absl::StrCat("a slot is taken twice on node ", id));
        }
      }
    }
  }
  for (const auto& [job_id, job] : ledger_.jobs) {
    if (DerivedState(*job) != job->record.state()) {
      return absl::InternalError(absl::StrCat("the state of job ", job_id, " does not follow from its stages"));
    }
    for (const auto& stage : job->stages) {
      const std::string name = absl::StrCat(job_id, "/", stage->record.name());
      const v1::StageState state = stage->record.state();
      if (!IsFinal(state) && ReasonOf(*stage, queue_, KeyOf(*stage), head_).empty()) {
        return absl::InternalError(absl::StrCat("waits without a reason: ", name));
      }
      const bool live = stage->attempt.has_value() && stage->attempt->record.state() != v1::ATTEMPT_STATE_ENDED;
      if (live != (state == v1::STAGE_STATE_ACTIVE)) {
        return absl::InternalError(absl::StrCat("ACTIVE and a live attempt go together: ", name));
      }
      const QueueKey key = KeyOf(*stage);
      const bool queued = queue_.ready().contains(key) || queue_.parked().contains(key);
      if (queued != (state == v1::STAGE_STATE_QUEUED)) {
        return absl::InternalError(absl::StrCat("the queue and the state disagree: ", name));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace vlm::coordinator
