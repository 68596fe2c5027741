// The worker's counters in the metric registry, from which Prometheus scrapes them.
#ifndef VLM_WORKER_REGISTRY_METRICS_H_
#define VLM_WORKER_REGISTRY_METRICS_H_

#include <map>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/mutex.h"
#include "telemetry/registry.h"
#include "worker/worker_metrics.h"

namespace vlm::worker {

// Series of a rank (labels job, stage, rank) live from its start to its end. Points of a trainer are matched by
// their series name; the table in registry_metrics.cc says how. Thread-safe.
class RegistryMetrics final : public WorkerMetrics {
 public:
  // Both must outlive this; refreshes gauges that age before each scrape.
  RegistryMetrics(telemetry::MetricRegistry* registry, const Clock* clock);

  void SessionChanged(bool connected) override;
  void ResultsWaiting(size_t results) override;
  void CallsWaiting(size_t calls) override;
  void LogShipped(uint64_t bytes, uint64_t dropped_bytes) override;
  void PointsShipped(uint64_t points, uint64_t dropped) override;
  void RankStarted(const RankLabels& rank) override;
  void RankBeat(const RankLabels& rank, const v1::RankBeat& beat) override;
  void RankPoint(const RankLabels& rank, const v1::MetricPoint& point) override;
  void RankEnded(const RankLabels& rank, v1::FailureClass failure) override;

 private:
  struct Rank {
    absl::Duration beat_at;
    v1::RankPhase phase = v1::RANK_PHASE_SPAWNED;
  };
  void Refresh();
  static telemetry::Labels LabelsOf(const RankLabels& rank);

  telemetry::MetricRegistry* const registry_;
  const Clock* const clock_;
  Mutex mutex_;
  std::map<telemetry::Labels, Rank> ranks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_REGISTRY_METRICS_H_
