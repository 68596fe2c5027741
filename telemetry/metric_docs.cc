#include "absl/strings/str_cat.h"
#include "telemetry/metric_table.h"

namespace vlm::telemetry {
namespace {

std::string_view TypeWord(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      return "histogram";
  }
  return "";
}

std::string Rows(MetricHome home) {
  std::string rows = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
  for (const MetricInfo& info : MetricTable()) {
    if (info.home != home) continue;
    std::string labels;
    for (const std::string_view label : info.labels) {
      absl::StrAppend(&labels, labels.empty() ? "" : ", ", std::string(label));
    }
    absl::StrAppend(&rows, "| `", std::string(info.name), "` | ", std::string(TypeWord(info.type)), " | ",
                    labels.empty() ? "-" : labels, " | ", std::string(info.help), " |\n");
  }
  return rows;
}

}  // namespace

std::string MetricsMarkdown() {
  return absl::StrCat(
      "# Metrics\n\n"
      "Generated from `telemetry/metric_table.cc`; run the telemetry tests with `UPDATE_DOCS=1` to write it again.\n\n"
      "Both programs serve the Prometheus text format at `/metrics` on a loopback address (`--metrics-address`).\n"
      "Times are in seconds, sizes in bytes. Series of a stage or a rank are removed when its attempt ends.\n\n"
      "## vlm-coordinator\n\n",
      Rows(MetricHome::kCoordinator), "\n## vlm-worker\n\n", Rows(MetricHome::kWorker));
}

}  // namespace vlm::telemetry
