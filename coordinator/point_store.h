// Metric points of ranks 0, so that curves can be asked for while a stage runs and after it.
//
// One row per (job, stage, series, step) in the coordinator's store, written without a sync: points are not
// decisions. When an attempt begins again from an older step, the points of the higher fence win, and what the
// older attempt said of later steps is not shown.
#ifndef VLM_COORDINATOR_POINT_STORE_H_
#define VLM_COORDINATOR_POINT_STORE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "store/meta_store.h"
#include "vlm/v1/job.pb.h"
#include "vlm/v1/worker.pb.h"

namespace vlm::coordinator {

inline constexpr std::string_view kPointFamily = "point";  // job, 0, stage, 0, series, 0, step u64 -> fence u64, f64
inline constexpr int kPointsPerAnswerDefault = 1000;
inline constexpr int kPointsPerAnswerMax = 100'000;

struct PointStoreOptions {
  uint64_t points_per_job_max = 2'000'000;
  size_t series_bytes_max = 64;
};

// Thread-safe. Blocks on the store.
class PointStore {
 public:
  PointStore(PointStoreOptions options, store::MetaStore* store) : options_(options), store_(store) {}

  // Returns how many points were not kept: the job has too many, or the series has no proper name
  // (lower-case letters, digits and '_'). Errors of the store.
  absl::StatusOr<uint64_t> Add(const v1::MetricBatch& batch);

  // In order of steps; thinned by equal strides to `max_points` (0: 1,000), the last point always kept.
  // INVALID_ARGUMENT for a number out of range.
  absl::StatusOr<v1::QueryMetricsResponse> Query(const v1::QueryMetricsRequest& request) const;

 private:
  absl::StatusOr<uint64_t*> Count(const std::string& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const PointStoreOptions options_;
  store::MetaStore* const store_;
  Mutex mutex_;
  std::map<std::string, uint64_t> counts_ ABSL_GUARDED_BY(mutex_);  // rows by job; counted when first met
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_POINT_STORE_H_
