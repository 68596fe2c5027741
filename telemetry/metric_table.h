// Every metric of the service, as data: the registry refuses a name that is not here, docs/metrics.md is generated
// from here, and a test compares the two.
#ifndef VLM_TELEMETRY_METRIC_TABLE_H_
#define VLM_TELEMETRY_METRIC_TABLE_H_

#include <string>
#include <string_view>
#include <vector>

namespace vlm::telemetry {

enum class MetricType { kCounter, kGauge, kHistogram };

// Which program's /metrics shows it. Job series stand only on the coordinator, rank series only on the worker.
enum class MetricHome { kCoordinator, kWorker };

struct MetricInfo {
  std::string_view name;  // prefix vlm_, base unit last, counters end in _total
  MetricType type = MetricType::kGauge;
  MetricHome home = MetricHome::kCoordinator;
  std::vector<std::string_view> labels;  // each with a bounded set of values
  std::string_view help;
};

// In the order of the document.
const std::vector<MetricInfo>& MetricTable();

// Null for a name that is not in the table.
const MetricInfo* FindMetric(std::string_view name);

// Upper bounds of every histogram's buckets, in seconds: from 0.1 ms (one synced write) to 10 s.
const std::vector<double>& LatencyBuckets();

// docs/metrics.md.
std::string MetricsMarkdown();

}  // namespace vlm::telemetry

#endif  // VLM_TELEMETRY_METRIC_TABLE_H_
