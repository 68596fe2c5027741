// The metrics of one process. Written by <Component>Metrics classes only; read by an Exposer.
#ifndef VLM_TELEMETRY_REGISTRY_H_
#define VLM_TELEMETRY_REGISTRY_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace vlm::telemetry {

using Labels = std::map<std::string, std::string>;

inline constexpr size_t kSeriesPerMetricMax = 4096;  // more are refused, and counted

// Thread-safe; a call takes about a microsecond. A name that is not in the metric table, labels that are not
// those of the table, or a call that does not fit the metric's type are programmer's errors.
class MetricRegistry {
 public:
  MetricRegistry();
  ~MetricRegistry();
  MetricRegistry(const MetricRegistry&) = delete;
  MetricRegistry& operator=(const MetricRegistry&) = delete;

  void Add(std::string_view counter, const Labels& labels, double delta);  // delta >= 0
  void Set(std::string_view gauge, const Labels& labels, double value);
  void Observe(std::string_view histogram, const Labels& labels, double value);
  // Gauges of one label: a value that is absent from `values` but has a series becomes 0.
  void SetEach(std::string_view gauge, std::string_view label, const std::map<std::string, int64_t>& values);

  // Removes every series, of any metric, whose labels contain all of `labels` (not empty).
  void Remove(const Labels& labels);

  // `refresh` runs before each scrape, on the scraping thread, and may block briefly.
  // Call before the registry is exposed.
  void BeforeScrape(std::function<void()> refresh);

  // The text exposition format, as a scrape sees it.
  std::string Text() const;

 private:
  friend class Exposer;
  class Impl;
  const std::shared_ptr<Impl> impl_;
};

}  // namespace vlm::telemetry

#endif  // VLM_TELEMETRY_REGISTRY_H_
