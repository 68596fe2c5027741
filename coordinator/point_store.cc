#include "coordinator/point_store.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "absl/strings/str_cat.h"
#include "coordinator/core/row_keys.h"
#include "coordinator/log_store.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kValueBytes = 16;
constexpr size_t kJobsCountedMax = 10'000;

struct Point {
  uint64_t step = 0;
  uint64_t fence = 0;
  double value = 0;
};

std::string SeriesPrefix(const std::string& job, const std::string& stage, const std::string& series) {
  return absl::StrCat(job, std::string(1, '\0'), stage, std::string(1, '\0'), series, std::string(1, '\0'));
}

std::string Encode(uint64_t fence, double value) {
  return EncodeU64(fence) + EncodeU64(std::bit_cast<uint64_t>(value));
}

bool IsSeries(std::string_view name, size_t bytes_max) {
  return !name.empty() && name.size() <= bytes_max && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

// Keeps what the newest attempt, and before its first step the ones before it, said.
std::vector<Point> WithoutRolledBack(std::vector<Point> points) {
  std::map<uint64_t, uint64_t> first_step;  // by fence
  for (const Point& point : points) first_step.emplace(point.fence, point.step);
  std::map<uint64_t, uint64_t> cut;  // by fence: steps from here on belong to a higher fence
  uint64_t lowest = UINT64_MAX;
  for (auto it = first_step.rbegin(); it != first_step.rend(); ++it) {
    cut[it->first] = lowest;
    lowest = std::min(lowest, it->second);
  }
  std::erase_if(points, [&](const Point& point) { return point.step >= cut[point.fence]; });
  return points;
}

}  // namespace

absl::StatusOr<uint64_t*> PointStore::Count(const std::string& job) {
  const auto it = counts_.find(job);
  if (it != counts_.end()) return &it->second;
  uint64_t rows = 0;
  VLM_RETURN_IF_ERROR(store_->Scan(kPointFamily, job + '\0', [&rows](std::string_view, std::string_view) {
    ++rows;
    return true;
  }));
  if (counts_.size() >= kJobsCountedMax) counts_.clear();
  return &(counts_[job] = rows);
}

absl::StatusOr<uint64_t> PointStore::Add(const v1::MetricBatch& batch) {
  VLM_RETURN_IF_ERROR(CheckPathPart(batch.job_id()));
  VLM_RETURN_IF_ERROR(CheckPathPart(batch.stage()));
  MutexLock lock(&mutex_);
  VLM_ASSIGN_OR_RETURN(uint64_t* const count, Count(batch.job_id()));
  std::map<std::string, Mutation> writes;  // by key: a step named twice counts once
  uint64_t dropped = 0;
  for (const v1::MetricPoint& point : batch.points()) {
    if (!IsSeries(point.series(), options_.series_bytes_max)) {
      ++dropped;
      continue;
    }
    const std::string key = SeriesPrefix(batch.job_id(), batch.stage(), point.series()) + EncodeU64(point.step());
    VLM_ASSIGN_OR_RETURN(const std::optional<std::string> old, store_->Get(kPointFamily, key));
    const bool fresh = !old.has_value() && !writes.contains(key);
    if (old.has_value() && old->size() == kValueBytes && DecodeU64(old->substr(0, 8)) > batch.fence()) continue;
    if (fresh && *count >= options_.points_per_job_max) {
      ++dropped;
      continue;
    }
    *count += fresh;
    writes[key] = {std::string(kPointFamily), key, Encode(batch.fence(), point.value())};
  }
  std::vector<Mutation> mutations;
  for (auto& [key, write] : writes) mutations.push_back(std::move(write));
  if (!mutations.empty()) VLM_RETURN_IF_ERROR(store_->Commit(mutations, store::Durability::kUnsynced));
  return dropped;
}

absl::StatusOr<v1::QueryMetricsResponse> PointStore::Query(const v1::QueryMetricsRequest& request) const {
  if (request.max_points() < 0 || request.max_points() > kPointsPerAnswerMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_points must be 0 to ", kPointsPerAnswerMax, ", got ", request.max_points()));
  }
  if (!IsSeries(request.series(), options_.series_bytes_max)) {
    return absl::InvalidArgumentError(absl::StrCat("not the name of a series, as \"loss\": ", request.series()));
  }
  std::vector<Point> points;
  VLM_RETURN_IF_ERROR(store_->Scan(kPointFamily, SeriesPrefix(request.job_id(), request.stage(), request.series()),
                                   [&points](std::string_view key, std::string_view value) {
                                     if (value.size() != kValueBytes) return true;
                                     points.push_back({DecodeU64(key), DecodeU64(value.substr(0, 8)),
                                                       std::bit_cast<double>(DecodeU64(value))});
                                     return true;
                                   }));
  points = WithoutRolledBack(std::move(points));
  const size_t wanted = static_cast<size_t>(request.max_points() == 0 ? kPointsPerAnswerDefault : request.max_points());
  const size_t stride = (points.size() + wanted - 1) / wanted;
  v1::QueryMetricsResponse response;
  for (size_t i = 0; i < points.size(); ++i) {
    // Counted from the end, so that the last point is always one of them.
    if ((points.size() - 1 - i) % stride != 0) continue;
    auto* point = response.add_points();
    point->set_step(points[i].step);
    point->set_value(points[i].value);
  }
  return response;
}

}  // namespace vlm::coordinator
