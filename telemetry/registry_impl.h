// The inside of MetricRegistry; included by this folder's .cc files only.
#ifndef VLM_TELEMETRY_REGISTRY_IMPL_H_
#define VLM_TELEMETRY_REGISTRY_IMPL_H_

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "telemetry/metric_table.h"
#include "telemetry/registry.h"

namespace vlm::telemetry {

class MetricRegistry::Impl : public prometheus::Collectable {
 public:
  Impl();

  prometheus::Counter* Counter(std::string_view name, const Labels& labels) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  prometheus::Gauge* Gauge(std::string_view name, const Labels& labels) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  prometheus::Histogram* Histogram(std::string_view name, const Labels& labels) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(const Labels& labels) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Zero(std::string_view gauge) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::vector<prometheus::MetricFamily> Collect() const override;

  Mutex mutex_;
  std::vector<std::function<void()>> refresh_;  // not changed once exposed

 private:
  // One of the three pairs is set, by the metric's type.
  struct Metric {
    const MetricInfo* info = nullptr;
    prometheus::Family<prometheus::Counter>* counters = nullptr;
    prometheus::Family<prometheus::Gauge>* gauges = nullptr;
    prometheus::Family<prometheus::Histogram>* histograms = nullptr;
    std::map<Labels, prometheus::Counter*> counter;
    std::map<Labels, prometheus::Gauge*> gauge;
    std::map<Labels, prometheus::Histogram*> histogram;
  };
  Metric* Find(std::string_view name, MetricType type, const Labels& labels) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Full(size_t series) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  prometheus::Registry registry_;
  std::map<std::string, Metric, std::less<>> metrics_ ABSL_GUARDED_BY(mutex_);
  prometheus::Counter* refused_ = nullptr;
};

}  // namespace vlm::telemetry

#endif  // VLM_TELEMETRY_REGISTRY_IMPL_H_
