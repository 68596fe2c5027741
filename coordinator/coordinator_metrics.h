// What the coordinator measures, in verbs. All metrics: telemetry/metric_table.cc.
#ifndef VLM_COORDINATOR_COORDINATOR_METRICS_H_
#define VLM_COORDINATOR_COORDINATOR_METRICS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "coordinator/core/coordinator.h"
#include "telemetry/registry.h"
#include "vlm/v1/record.pb.h"

namespace vlm::coordinator {

// Thread-safe. Good and bad time: an attempt's rank-seconds are good once a step or shard is committed or the
// attempt ends well; those before its ranks ran, and those since the last commit when it ends badly, are bad.
class CoordinatorMetrics {
 public:
  explicit CoordinatorMetrics(telemetry::MetricRegistry* registry);

  // A row found at the start, so that attempts which still run are accounted for from here on. Rows of attempts come
  // before those of stages: of all stages only those with an attempt are looked at.
  void Restored(std::string_view family, std::string_view key, std::string_view value, absl::Duration now);
  // What became durable.
  void Decisions(const Outputs& outputs, Now now);

  void Decided(size_t events, absl::Duration time);
  void Committed(absl::Duration time);       // a synced batch
  void StoredUnsynced(absl::Duration time);  // a batch of points
  void Validated(absl::Duration time);
  void Submitted(absl::Duration time);
  void CallRefused();
  void Beat();
  void SessionsChanged(size_t open);
  void WatchersChanged(int by);
  void LogStored(uint64_t bytes, uint64_t dropped_bytes);
  void PointsStored(uint64_t points, uint64_t dropped);

  // What the core counts: `counts` and `waited` of one moment of one Coordinator. Called before each scrape.
  void Sample(const Counts& counts, const std::map<std::string, absl::Duration>& waited, size_t queue);
  // Attempts that run now: (job, stage).
  std::vector<std::pair<std::string, std::string>> RunningStages() const;
  void StageProgress(const std::string& job, const std::string& stage, const v1::Progress& progress);

 private:
  struct StageAccount {
    std::string job, stage;
    uint64_t fence = 0;
    v1::AttemptState state = v1::ATTEMPT_STATE_UNSPECIFIED;
    int32_t world = 0;
    absl::Duration mark;  // rank-seconds before this are accounted for
  };
  // Null when no unfinished stage with an attempt has that name.
  StageAccount* Named(const std::string& job, const std::string& stage) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnStageRow(const v1::StageRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnAttemptRow(const v1::AttemptRecord& record, absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Good(StageAccount* account, absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Bad(StageAccount* account, const std::string& cause, absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  double Unaccounted(StageAccount* account, absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  telemetry::MetricRegistry* const registry_;
  mutable Mutex mutex_;
  std::map<std::string, StageAccount> stages_
      ABSL_GUARDED_BY(mutex_);  // by stage_uid; unfinished ones that had an attempt
  // Of them, by job and name.
  absl::flat_hash_map<std::pair<std::string, std::string>, std::string> uids_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, v1::AttemptRecord> restored_attempts_ ABSL_GUARDED_BY(mutex_);  // by stage_uid, not yet met
  std::map<std::string, uint64_t> restarts_seen_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, absl::Duration> waited_seen_ ABSL_GUARDED_BY(mutex_);
  int watchers_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_COORDINATOR_METRICS_H_
