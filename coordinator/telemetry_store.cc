#include "coordinator/telemetry_store.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/core/row_keys.h"
#include "coordinator/core/transition_table.h"
#include "telemetry/log.h"
#include "vlm/v1/record.pb.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kKnownJobsMax = 10'000;

using telemetry::Log;
using telemetry::LogLevel;

// A job is over when its durable row says so, or is gone.
LogStoreOptions WithJobs(LogStoreOptions options, store::MetaStore* store) {
  options.job_ended = [store](const std::string& job) {
    const absl::StatusOr<std::optional<std::string>> row = store->Get(kJobFamily, job);
    if (!row.ok()) return false;
    v1::JobRecord record;
    return !row->has_value() || (record.ParseFromString(**row) && IsFinal(record.state()));
  };
  return options;
}

}  // namespace

TelemetryStore::TelemetryStore(LogStoreOptions logs, PointStoreOptions points, store::MetaStore* store,
                               Executor* thread, const Clock* clock, CoordinatorMetrics* metrics)
    : logs_(WithJobs(std::move(logs), store)),
      points_(points, store),
      store_(store),
      thread_(thread),
      clock_(clock),
      metrics_(metrics) {}

void TelemetryStore::Store(v1::ShipTelemetryRequest request, std::function<void(const v1::LogAcknowledged*)> done) {
  thread_->Post([this, request = std::move(request), done = std::move(done)] {
    if (request.has_log()) {
      v1::LogAcknowledged acknowledged;
      StoreLog(request.log(), &acknowledged);
      done(&acknowledged);
    } else {
      if (request.has_metrics()) StorePoints(request.metrics());
      done(nullptr);
    }
  });
}

bool TelemetryStore::KnownJob(const std::string& job) {
  if (known_jobs_.contains(job)) return true;
  const absl::StatusOr<std::optional<std::string>> row = store_->Get(kJobFamily, job);
  if (!row.ok() || !row->has_value()) return false;
  if (known_jobs_.size() >= kKnownJobsMax) known_jobs_.clear();
  known_jobs_.insert(job);
  return true;
}

void TelemetryStore::StoreLog(const v1::LogChunk& chunk, v1::LogAcknowledged* acknowledged) {
  const LogKey key{chunk.job_id(), chunk.stage(), chunk.fence(), chunk.rank()};
  acknowledged->set_job_id(key.job);
  acknowledged->set_stage(key.stage);
  acknowledged->set_fence(key.fence);
  acknowledged->set_rank(key.rank);
  acknowledged->set_offset(chunk.offset() + chunk.data().size());
  if (!KnownJob(key.job)) {
    metrics_->LogStored(0, chunk.data().size());
    return;
  }
  const absl::StatusOr<LogStore::Appended> appended = logs_.Append(key, chunk.offset(), chunk.data());
  if (!appended.ok()) {
    metrics_->LogStored(0, chunk.data().size());
    Log(LogLevel::kWarning, "log chunk is lost", {{"job", key.job}, {"reason", appended.status().ToString()}});
    return;
  }
  acknowledged->set_offset(appended->end);
  metrics_->LogStored(appended->stored, appended->dropped);
  if (on_log_) on_log_(key);
}

void TelemetryStore::StorePoints(const v1::MetricBatch& batch) {
  const auto points = static_cast<uint64_t>(batch.points_size());
  if (!KnownJob(batch.job_id())) {
    metrics_->PointsStored(0, points + batch.dropped());
    return;
  }
  const absl::Duration begun = clock_->Monotonic();
  const absl::StatusOr<uint64_t> dropped = points_.Add(batch);
  metrics_->StoredUnsynced(clock_->Monotonic() - begun);
  if (!dropped.ok()) {
    Log(LogLevel::kWarning, "metric points are lost",
        {{"job", batch.job_id()}, {"reason", dropped.status().ToString()}});
  }
  const uint64_t lost = dropped.ok() ? *dropped : points;
  metrics_->PointsStored(points - lost, lost + batch.dropped());
}

}  // namespace vlm::coordinator
