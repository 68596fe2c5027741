// What the worker tells whoever counts: the one place through which its series are updated.
#ifndef VLM_WORKER_WORKER_METRICS_H_
#define VLM_WORKER_WORKER_METRICS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "vlm/v1/failure.pb.h"
#include "vlm/v1/worker.pb.h"

namespace vlm::worker {

// The labels of one rank's series.
struct RankLabels {
  std::string job_id;
  std::string stage;
  uint64_t fence = 0;
  int32_t rank = 0;
};

// Called from several threads, so implementations are thread-safe; calls are cheap and never block.
class WorkerMetrics {
 public:
  virtual ~WorkerMetrics() = default;
  virtual void SessionChanged(bool connected) = 0;
  virtual void ResultsWaiting(size_t results) = 0;  // not yet accepted by the coordinator
  virtual void CallsWaiting(size_t calls) = 0;      // stored calls not yet delivered
  virtual void LogShipped(uint64_t bytes, uint64_t dropped_bytes) = 0;
  virtual void PointsShipped(uint64_t points, uint64_t dropped) = 0;  // told once they are handled, or lost
  virtual void RankStarted(const RankLabels& rank) = 0;
  virtual void RankBeat(const RankLabels& rank, const v1::RankBeat& beat) = 0;
  // A point of the trainer's own: loss, learning_rate, phase seconds and so on.
  virtual void RankPoint(const RankLabels& rank, const v1::MetricPoint& point) = 0;
  // The series of the rank end here.
  virtual void RankEnded(const RankLabels& rank, v1::FailureClass failure) = 0;
};

// Counts nothing.
class NoWorkerMetrics final : public WorkerMetrics {
 public:
  void SessionChanged(bool) override {}
  void ResultsWaiting(size_t) override {}
  void CallsWaiting(size_t) override {}
  void LogShipped(uint64_t, uint64_t) override {}
  void PointsShipped(uint64_t, uint64_t) override {}
  void RankStarted(const RankLabels&) override {}
  void RankBeat(const RankLabels&, const v1::RankBeat&) override {}
  void RankPoint(const RankLabels&, const v1::MetricPoint&) override {}
  void RankEnded(const RankLabels&, v1::FailureClass) override {}
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_WORKER_METRICS_H_
