// Logs and metric points as they arrive from workers, on a thread of their own, and the streams that follow logs.
#ifndef VLM_COORDINATOR_TELEMETRY_STORE_H_
#define VLM_COORDINATOR_TELEMETRY_STORE_H_

#include <functional>
#include <set>
#include <string>

#include "base/clock.h"
#include "base/executor.h"
#include "coordinator/coordinator_metrics.h"
#include "coordinator/log_store.h"
#include "coordinator/point_store.h"
#include "store/meta_store.h"

namespace vlm::coordinator {

// Thread-safe: work is posted to `thread`, which alone touches the logs.
class TelemetryStore {
 public:
  // All must outlive the store.
  TelemetryStore(LogStoreOptions logs, PointStoreOptions points, store::MetaStore* store, Executor* thread,
                 const Clock* clock, CoordinatorMetrics* metrics);

  // `done` gets what to acknowledge (null for metrics) on the thread, whether or not the contents could be kept:
  // telemetry never holds up a worker. Contents of jobs that do not exist are dropped.
  void Store(v1::ShipTelemetryRequest request, std::function<void(const v1::LogAcknowledged*)> done);

  // Called on the thread after a log has grown. Set before the first Store.
  void OnLog(std::function<void(const LogKey&)> on_log) { on_log_ = std::move(on_log); }

  LogStore* logs() { return &logs_; }  // on the thread only
  PointStore* points() { return &points_; }
  Executor* thread() { return thread_; }

 private:
  void StoreLog(const v1::LogChunk& chunk, v1::LogAcknowledged* acknowledged);
  void StorePoints(const v1::MetricBatch& batch);
  bool KnownJob(const std::string& job);

  LogStore logs_;
  PointStore points_;
  store::MetaStore* const store_;
  Executor* const thread_;
  const Clock* const clock_;
  CoordinatorMetrics* const metrics_;
  std::function<void(const LogKey&)> on_log_;
  std::set<std::string> known_jobs_;  // at most kKnownJobsMax, then looked up again
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_TELEMETRY_STORE_H_
