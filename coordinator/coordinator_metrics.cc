#include "coordinator/coordinator_metrics.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>

#include "coordinator/core/row_keys.h"
#include "coordinator/core/transition_table.h"

namespace vlm::coordinator {
namespace {

constexpr const char* kWaitReasons[] = {"capacity", "behind", "root", "workers"};
constexpr const char* kEventKinds[] = {"job.submitted", "stage.active", "worker.live"};
constexpr size_t kStageUidBytes = 16;

template <typename Enum>
void ZeroStates(telemetry::MetricRegistry* registry, std::string_view gauge,
                const google::protobuf::EnumDescriptor* names) {
  for (int i = 1; i < names->value_count(); ++i) {
    registry->Set(gauge, {{"state", Word(static_cast<Enum>(names->value(i)->number()))}}, 0);
  }
}

std::string CauseOf(const v1::AttemptRecord& record) {
  if (record.failure() != v1::FAILURE_CLASS_UNSPECIFIED) return Word(record.failure());
  return record.stop_cause() == v1::STOP_CAUSE_UNSPECIFIED ? "unknown" : Word(record.stop_cause());
}

}  // namespace

// Every metric has a series from the start: a rate over a counter that appears late misses its first increment.
CoordinatorMetrics::CoordinatorMetrics(telemetry::MetricRegistry* registry) : registry_(registry) {
  ZeroStates<v1::JobState>(registry, "vlm_jobs", v1::JobState_descriptor());
  ZeroStates<v1::StageState>(registry, "vlm_stages", v1::StageState_descriptor());
  ZeroStates<v1::AttemptState>(registry, "vlm_attempts", v1::AttemptState_descriptor());
  ZeroStates<v1::NodeState>(registry, "vlm_nodes", v1::NodeState_descriptor());
  for (const char* reason : kWaitReasons) {
    registry->Set("vlm_stages_waiting", {{"reason", reason}}, 0);
    registry->Add("vlm_queue_wait_seconds_total", {{"reason", reason}}, 0);
  }
  for (int i = 1; i < v1::FailureClass_descriptor()->value_count(); ++i) {
    const std::string cause = Word(static_cast<v1::FailureClass>(v1::FailureClass_descriptor()->value(i)->number()));
    registry->Add("vlm_restarts_total", {{"cause", cause}}, 0);
    registry->Add("vlm_badput_seconds_total", {{"cause", cause}}, 0);
  }
  registry->Add("vlm_badput_seconds_total", {{"cause", "start"}}, 0);
  registry->Add("vlm_badput_seconds_total", {{"cause", "cancel"}}, 0);
  for (const char* kind : kEventKinds) registry->Add("vlm_events_total", {{"kind", kind}}, 0);
  for (const char* counter : {"vlm_goodput_seconds_total", "vlm_step_commits_total", "vlm_heartbeats_total",
                              "vlm_decisions_total", "vlm_calls_refused_total", "vlm_log_bytes_total",
                              "vlm_log_dropped_bytes_total", "vlm_points_total", "vlm_points_dropped_total"}) {
    registry->Add(counter, {}, 0);
  }
  for (const char* gauge : {"vlm_slots", "vlm_slots_taken", "vlm_worker_sessions", "vlm_decision_queue", "vlm_watchers",
                            "vlm_last_step_commit_timestamp_seconds"}) {
    registry->Set(gauge, {}, 0);
  }
}

void CoordinatorMetrics::Restored(std::string_view family, std::string_view key, std::string_view value,
                                  absl::Duration now) {
  const int size = static_cast<int>(value.size());
  MutexLock lock(&mutex_);
  if (family == kAttemptFamily) {
    v1::AttemptRecord record;
    if (record.ParseFromArray(value.data(), size)) restored_attempts_[std::string(key)] = std::move(record);
  } else if (family == kStageFamily && !restored_attempts_.empty()) {
    const auto attempt = restored_attempts_.find(std::string(key));
    if (attempt == restored_attempts_.end()) return;
    v1::StageRecord record;
    if (record.ParseFromArray(value.data(), size) && !IsFinal(record.state())) {
      OnStageRow(record);
      OnAttemptRow(attempt->second, now);
    }
    restored_attempts_.erase(attempt);
  }
}

void CoordinatorMetrics::Decisions(const Outputs& outputs, Now now) {
  MutexLock lock(&mutex_);
  for (const v1::Event& event : outputs.events) registry_->Add("vlm_events_total", {{"kind", event.kind()}}, 1);
  // An attempt's row may stand before or after its stage's in one batch. With ten thousands of stages stored, nothing
  // here may look at all of them.
  std::vector<std::string> ended;
  for (const Mutation& write : outputs.writes) {
    v1::StageRecord record;
    if (write.family == kStageFamily && write.value.has_value() && record.ParseFromString(*write.value)) {
      OnStageRow(record);
      if (IsFinal(record.state())) ended.push_back(record.stage_uid());
    }
  }
  for (const Mutation& write : outputs.writes) {
    if (!write.value.has_value()) continue;
    if (write.family == kAttemptFamily) {
      v1::AttemptRecord record;
      if (record.ParseFromString(*write.value)) OnAttemptRow(record, now.monotonic);
    } else if (write.family == kShardFamily && write.key.size() > kStageUidBytes) {
      const auto account = stages_.find(write.key.substr(0, kStageUidBytes));
      v1::ShardRecord record;
      if (account != stages_.end() && record.ParseFromString(*write.value) && !record.poisoned()) {
        Good(&account->second, now.monotonic);
      }
    }
  }
  for (const v1::Event& event : outputs.events) {
    if (event.kind() != "step.committed") continue;
    registry_->Add("vlm_step_commits_total", {}, 1);
    registry_->Set("vlm_last_step_commit_timestamp_seconds", {}, absl::ToDoubleSeconds(now.wall - absl::UnixEpoch()));
    if (StageAccount* const account = Named(event.job_id(), event.stage()); account != nullptr) {
      Good(account, now.monotonic);
    }
  }
  for (const std::string& uid : ended) {
    const auto account = stages_.find(uid);
    if (account == stages_.end()) continue;
    const auto named = uids_.find({account->second.job, account->second.stage});
    if (named != uids_.end() && named->second == uid) uids_.erase(named);
    stages_.erase(account);
  }
}

CoordinatorMetrics::StageAccount* CoordinatorMetrics::Named(const std::string& job, const std::string& stage) {
  const auto uid = uids_.find({job, stage});
  if (uid == uids_.end()) return nullptr;
  const auto account = stages_.find(uid->second);
  return account == stages_.end() ? nullptr : &account->second;
}

void CoordinatorMetrics::OnStageRow(const v1::StageRecord& record) {
  if (record.fence() == 0) return;  // it has no attempt yet: of thousands that wait there is nothing to account for
  StageAccount& account = stages_.try_emplace(stages_.end(), record.stage_uid())->second;  // restored in this order
  account.job = record.job_id();
  account.stage = record.name();
  uids_[{account.job, account.stage}] = record.stage_uid();
}

void CoordinatorMetrics::OnAttemptRow(const v1::AttemptRecord& record, absl::Duration now) {
  const auto it = stages_.find(record.stage_uid());
  if (it == stages_.end()) return;
  StageAccount& account = it->second;
  const v1::AttemptState before = account.fence == record.fence() ? account.state : v1::ATTEMPT_STATE_UNSPECIFIED;
  const v1::AttemptState after = record.state();
  if (before == v1::ATTEMPT_STATE_UNSPECIFIED) account.mark = now;
  if (before == v1::ATTEMPT_STATE_STARTING && after != before) Bad(&account, "start", now);
  if (before == v1::ATTEMPT_STATE_RUNNING && after == v1::ATTEMPT_STATE_STOPPING) Bad(&account, CauseOf(record), now);
  if (before == v1::ATTEMPT_STATE_RUNNING && after == v1::ATTEMPT_STATE_ENDED) {
    if (record.failure() == v1::FAILURE_CLASS_UNSPECIFIED) {
      Good(&account, now);
    } else {
      Bad(&account, CauseOf(record), now);
    }
  }
  if (before == v1::ATTEMPT_STATE_STOPPING && after == v1::ATTEMPT_STATE_ENDED) Bad(&account, CauseOf(record), now);
  if (before == v1::ATTEMPT_STATE_FENCING) account.mark = now;  // nobody held a slot for nothing yet
  if (after == v1::ATTEMPT_STATE_ENDED && before != after) {
    registry_->Remove({{"job", account.job}, {"stage", account.stage}});
  }
  account.fence = record.fence();
  account.state = after;
  account.world = record.world();
}

double CoordinatorMetrics::Unaccounted(StageAccount* account, absl::Duration now) {
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - account->mark)) * account->world;
  account->mark = now;
  return seconds;
}

void CoordinatorMetrics::Good(StageAccount* account, absl::Duration now) {
  if (account->state != v1::ATTEMPT_STATE_RUNNING) return;
  registry_->Add("vlm_goodput_seconds_total", {}, Unaccounted(account, now));
}

void CoordinatorMetrics::Bad(StageAccount* account, const std::string& cause, absl::Duration now) {
  registry_->Add("vlm_badput_seconds_total", {{"cause", cause}}, Unaccounted(account, now));
}

void CoordinatorMetrics::Decided(size_t events, absl::Duration time) {
  registry_->Observe("vlm_decision_seconds", {}, absl::ToDoubleSeconds(time));
  registry_->Add("vlm_decisions_total", {}, static_cast<double>(events));
}

void CoordinatorMetrics::Committed(absl::Duration time) {
  registry_->Observe("vlm_store_commit_seconds", {{"durability", "synced"}}, absl::ToDoubleSeconds(time));
}
void CoordinatorMetrics::StoredUnsynced(absl::Duration time) {
  registry_->Observe("vlm_store_commit_seconds", {{"durability", "unsynced"}}, absl::ToDoubleSeconds(time));
}
void CoordinatorMetrics::Validated(absl::Duration time) {
  registry_->Observe("vlm_validate_seconds", {}, absl::ToDoubleSeconds(time));
}
void CoordinatorMetrics::Submitted(absl::Duration time) {
  registry_->Observe("vlm_submit_seconds", {}, absl::ToDoubleSeconds(time));
}
void CoordinatorMetrics::CallRefused() { registry_->Add("vlm_calls_refused_total", {}, 1); }
void CoordinatorMetrics::Beat() { registry_->Add("vlm_heartbeats_total", {}, 1); }
void CoordinatorMetrics::SessionsChanged(size_t open) {
  registry_->Set("vlm_worker_sessions", {}, static_cast<double>(open));
}

void CoordinatorMetrics::WatchersChanged(int by) {
  MutexLock lock(&mutex_);
  watchers_ += by;
  registry_->Set("vlm_watchers", {}, watchers_);
}

void CoordinatorMetrics::LogStored(uint64_t bytes, uint64_t dropped_bytes) {
  registry_->Add("vlm_log_bytes_total", {}, static_cast<double>(bytes));
  registry_->Add("vlm_log_dropped_bytes_total", {}, static_cast<double>(dropped_bytes));
}

void CoordinatorMetrics::PointsStored(uint64_t points, uint64_t dropped) {
  registry_->Add("vlm_points_total", {}, static_cast<double>(points));
  registry_->Add("vlm_points_dropped_total", {}, static_cast<double>(dropped));
}

void CoordinatorMetrics::Sample(const Counts& counts, const std::map<std::string, absl::Duration>& waited,
                                size_t queue) {
  MutexLock lock(&mutex_);
  registry_->SetEach("vlm_jobs", "state", counts.jobs);
  registry_->SetEach("vlm_stages", "state", counts.stages);
  registry_->SetEach("vlm_attempts", "state", counts.attempts);
  registry_->SetEach("vlm_stages_waiting", "reason", counts.queued);
  registry_->SetEach("vlm_nodes", "state", counts.nodes);
  registry_->Set("vlm_slots", {}, static_cast<double>(counts.slots));
  registry_->Set("vlm_slots_taken", {}, static_cast<double>(counts.slots_taken));
  registry_->Set("vlm_decision_queue", {}, static_cast<double>(queue));
  for (const auto& [cause, times] : counts.restarts) {
    uint64_t& seen = restarts_seen_[cause];
    if (times <= seen) continue;
    registry_->Add("vlm_restarts_total", {{"cause", cause}}, static_cast<double>(times - seen));
    seen = times;
  }
  for (const auto& [reason, time] : waited) {
    absl::Duration& seen = waited_seen_[reason];
    // Two scrapes at once may bring their views in the other order.
    if (time <= seen) continue;
    registry_->Add("vlm_queue_wait_seconds_total", {{"reason", reason}}, absl::ToDoubleSeconds(time - seen));
    seen = time;
  }
}

std::vector<std::pair<std::string, std::string>> CoordinatorMetrics::RunningStages() const {
  MutexLock lock(&mutex_);
  std::vector<std::pair<std::string, std::string>> running;
  for (const auto& [uid, account] : stages_) {
    if (account.state == v1::ATTEMPT_STATE_RUNNING) running.emplace_back(account.job, account.stage);
  }
  return running;
}

void CoordinatorMetrics::StageProgress(const std::string& job, const std::string& stage, const v1::Progress& progress) {
  MutexLock lock(&mutex_);
  const StageAccount* const account = Named(job, stage);
  if (account == nullptr || account->state != v1::ATTEMPT_STATE_RUNNING) return;
  registry_->Set("vlm_stage_steps_done", {{"job", job}, {"stage", stage}}, static_cast<double>(progress.done()));
  registry_->Set("vlm_stage_steps_planned", {{"job", job}, {"stage", stage}}, static_cast<double>(progress.total()));
}

}  // namespace vlm::coordinator
