#include "worker/registry_metrics.h"

#include <string_view>

namespace vlm::worker {
namespace {

// How a trainer's series becomes a metric of the table in telemetry/. A sum grows by each point's value.
enum class Kind { kGauge, kSum, kSavedAt };
struct SeriesRow {
  std::string_view series;
  Kind kind;
  std::string_view metric;
};
constexpr SeriesRow kSeries[] = {
    {"loss", Kind::kGauge, "vlm_rank_loss"},
    {"learning_rate", Kind::kGauge, "vlm_rank_learning_rate"},
    {"gradient_norm", Kind::kGauge, "vlm_rank_gradient_norm"},
    {"tokens", Kind::kSum, "vlm_rank_tokens_total"},
    {"images", Kind::kSum, "vlm_rank_images_total"},
    {"bad_pictures", Kind::kSum, "vlm_rank_bad_pictures_total"},
    {"samples_rejected", Kind::kSum, "vlm_rank_samples_rejected_total"},
    {"checkpoint_seconds", Kind::kGauge, "vlm_rank_checkpoint_seconds"},
    {"checkpoint_bytes", Kind::kGauge, "vlm_rank_checkpoint_bytes"},
    {"checkpoint_ok", Kind::kSavedAt, "vlm_rank_checkpoint_success_timestamp_seconds"},
    {"checkpoint_skipped", Kind::kSum, "vlm_rank_checkpoints_skipped_total"},
    {"checkpoint_failed", Kind::kSum, "vlm_rank_checkpoints_failed_total"},
};
// "step_seconds_forward" and so on: the time of one phase of a step. Its phase "data" is what a step waits for input.
constexpr std::string_view kPhasePrefix = "step_seconds_";

// "step" of RANK_PHASE_STEP.
std::string PhaseWord(v1::RankPhase phase) {
  constexpr std::string_view kPrefix = "RANK_PHASE_";
  std::string word = v1::RankPhase_Name(phase);
  if (word.starts_with(kPrefix)) word.erase(0, kPrefix.size());
  for (char& c : word) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return word;
}

}  // namespace

RegistryMetrics::RegistryMetrics(telemetry::MetricRegistry* registry, const Clock* clock)
    : registry_(registry), clock_(clock) {
  registry_->Set("vlm_worker_connected", {}, 0);
  registry_->Set("vlm_worker_results_waiting", {}, 0);
  registry_->Set("vlm_worker_calls_waiting", {}, 0);
  registry_->Add("vlm_worker_telemetry_dropped_total", {{"kind", "log_bytes"}}, 0);
  registry_->Add("vlm_worker_telemetry_dropped_total", {{"kind", "points"}}, 0);
  registry_->BeforeScrape([this] { Refresh(); });
}

telemetry::Labels RegistryMetrics::LabelsOf(const RankLabels& rank) {
  return {{"job", rank.job_id}, {"stage", rank.stage}, {"rank", std::to_string(rank.rank)}};
}

void RegistryMetrics::SessionChanged(bool connected) { registry_->Set("vlm_worker_connected", {}, connected ? 1 : 0); }

void RegistryMetrics::ResultsWaiting(size_t results) {
  registry_->Set("vlm_worker_results_waiting", {}, static_cast<double>(results));
}

void RegistryMetrics::CallsWaiting(size_t calls) {
  registry_->Set("vlm_worker_calls_waiting", {}, static_cast<double>(calls));
}

void RegistryMetrics::LogShipped(uint64_t, uint64_t dropped_bytes) {
  if (dropped_bytes == 0) return;
  registry_->Add("vlm_worker_telemetry_dropped_total", {{"kind", "log_bytes"}}, static_cast<double>(dropped_bytes));
}

void RegistryMetrics::PointsShipped(uint64_t, uint64_t dropped) {
  if (dropped == 0) return;
  registry_->Add("vlm_worker_telemetry_dropped_total", {{"kind", "points"}}, static_cast<double>(dropped));
}

void RegistryMetrics::RankStarted(const RankLabels& rank) {
  MutexLock lock(&mutex_);
  ranks_[LabelsOf(rank)] = {.beat_at = clock_->Monotonic()};
}

void RegistryMetrics::RankBeat(const RankLabels& rank, const v1::RankBeat& beat) {
  const telemetry::Labels labels = LabelsOf(rank);
  {
    MutexLock lock(&mutex_);
    const auto it = ranks_.find(labels);
    if (it == ranks_.end()) return;
    it->second = {.beat_at = clock_->Monotonic(), .phase = beat.phase()};
  }
  registry_->Set("vlm_rank_step", labels, static_cast<double>(beat.step()));
}

void RegistryMetrics::RankPoint(const RankLabels& rank, const v1::MetricPoint& point) {
  telemetry::Labels labels = LabelsOf(rank);
  {
    MutexLock lock(&mutex_);
    if (!ranks_.contains(labels)) return;  // late words of a rank whose series have ended
  }
  const std::string_view series = point.series();
  if (series.starts_with(kPhasePrefix)) {
    const std::string phase(series.substr(kPhasePrefix.size()));
    if (phase == "data" && point.value() >= 0) {
      registry_->Add("vlm_rank_data_wait_seconds_total", labels, point.value());
    }
    labels["phase"] = phase;
    registry_->Set("vlm_rank_step_seconds", labels, point.value());
    if (point.value() >= 0) registry_->Add("vlm_rank_step_seconds_total", labels, point.value());
    return;
  }
  for (const SeriesRow& row : kSeries) {
    if (row.series != series) continue;
    if (row.kind == Kind::kGauge) registry_->Set(row.metric, labels, point.value());
    if (row.kind == Kind::kSum && point.value() >= 0) registry_->Add(row.metric, labels, point.value());
    if (row.kind == Kind::kSavedAt && point.value() > 0) {
      registry_->Set(row.metric, labels, absl::ToDoubleSeconds(clock_->Wall() - absl::UnixEpoch()));
    }
  }
}

void RegistryMetrics::RankEnded(const RankLabels& rank, v1::FailureClass) {
  const telemetry::Labels labels = LabelsOf(rank);
  {
    MutexLock lock(&mutex_);
    ranks_.erase(labels);
  }
  registry_->Remove(labels);
}

void RegistryMetrics::Refresh() {
  std::map<std::string, int64_t> phases;
  std::map<telemetry::Labels, double> ages;
  {
    MutexLock lock(&mutex_);
    for (const auto& [labels, rank] : ranks_) {
      ++phases[PhaseWord(rank.phase)];
      ages[labels] = absl::ToDoubleSeconds(clock_->Monotonic() - rank.beat_at);
    }
  }
  registry_->SetEach("vlm_ranks", "phase", phases);
  for (const auto& [labels, age] : ages) registry_->Set("vlm_rank_heartbeat_age_seconds", labels, age);
}

}  // namespace vlm::worker
