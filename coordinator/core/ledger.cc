#include "coordinator/core/ledger.h"

#include <utility>

#include "coordinator/core/options.h"

namespace vlm::coordinator {

Stage* Job::Find(std::string_view name) {
  for (const auto& stage : stages) {
    if (stage->record.name() == name) return stage.get();
  }
  return nullptr;
}

google::protobuf::Timestamp Timestamp(absl::Time time) {
  google::protobuf::Timestamp stamp;
  const absl::Duration since = time - absl::UnixEpoch();
  const int64_t seconds = absl::ToInt64Seconds(absl::Floor(since, absl::Seconds(1)));
  stamp.set_seconds(seconds);
  stamp.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(since - absl::Seconds(seconds))));
  return stamp;
}

void Ledger::Put(std::string_view family, std::string key, std::string value) {
  outputs_.writes.push_back({std::string(family), std::move(key), std::move(value)});
}

void Ledger::Delete(std::string_view family, std::string key) {
  outputs_.writes.push_back({std::string(family), std::move(key), std::nullopt});
}

void Ledger::Event(const Job* job, const Stage* stage, std::string kind, std::string reason) {
  v1::Event event;
  meta.set_events(meta.events() + 1);
  TouchMeta();
  event.set_sequence(meta.events());
  *event.mutable_at() = Timestamp(now.wall);
  event.set_kind(std::move(kind));
  event.set_reason(std::move(reason));
  if (job != nullptr) event.set_job_id(job->record.job_id());
  if (stage != nullptr) {
    event.set_stage(stage->record.name());
    event.set_fence(stage->record.fence());
  }
  Put(kEventFamily, EventKey(event.sequence()), event.SerializeAsString());
  if (job != nullptr) Put(kJobEventFamily, JobEventKey(event.job_id(), event.sequence()), "");
  outputs_.events.push_back(std::move(event));
}

uint64_t Ledger::NewLeaseId() {
  if (next_lease_id_ > meta.lease_ids()) {
    meta.set_lease_ids(meta.lease_ids() + kLeaseIdBlock);
    TouchMeta();
  }
  return next_lease_id_++;
}

Outputs Ledger::TakeOutputs() {
  for (const std::string& id : jobs_touched_) Put(kJobFamily, id, jobs.at(id)->record.SerializeAsString());
  for (const std::string& uid : stages_touched_) {
    Put(kStageFamily, uid, stages.at(uid)->record.SerializeAsString());
  }
  for (const std::string& uid : attempts_touched_) {
    Put(kAttemptFamily, uid, stages.at(uid)->attempt->record.SerializeAsString());
  }
  if (meta_touched_) Put(kMetaFamily, "meta", meta.SerializeAsString());
  meta_touched_ = false;
  jobs_touched_.clear();
  stages_touched_.clear();
  attempts_touched_.clear();
  return std::exchange(outputs_, Outputs());
}

}  // namespace vlm::coordinator
