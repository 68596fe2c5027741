#include "telemetry/registry.h"

#include <prometheus/text_serializer.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "telemetry/registry_impl.h"

namespace vlm::telemetry {
namespace {

bool Contains(const Labels& all, const Labels& some) {
  return std::all_of(some.begin(), some.end(), [&](const auto& label) {
    const auto it = all.find(label.first);
    return it != all.end() && it->second == label.second;
  });
}

bool SameNames(const Labels& labels, const std::vector<std::string_view>& names) {
  return labels.size() == names.size() && std::all_of(names.begin(), names.end(), [&](std::string_view name) {
           return labels.contains(std::string(name));
         });
}

}  // namespace

MetricRegistry::Impl::Impl() {
  for (const MetricInfo& info : MetricTable()) {
    Metric& metric = metrics_[std::string(info.name)];
    metric.info = &info;
    const std::string name(info.name), help(info.help);
    switch (info.type) {
      case MetricType::kCounter:
        metric.counters = &prometheus::BuildCounter().Name(name).Help(help).Register(registry_);
        break;
      case MetricType::kGauge:
        metric.gauges = &prometheus::BuildGauge().Name(name).Help(help).Register(registry_);
        break;
      case MetricType::kHistogram:
        metric.histograms = &prometheus::BuildHistogram().Name(name).Help(help).Register(registry_);
        break;
    }
  }
  refused_ = &metrics_["vlm_metric_series_refused_total"].counters->Add({});
}

MetricRegistry::Impl::Metric* MetricRegistry::Impl::Find(std::string_view name, MetricType type, const Labels& labels) {
  const auto it = metrics_.find(name);
  VLM_CHECK(it != metrics_.end(), absl::StrCat("no such metric in the table: ", std::string(name)));
  VLM_CHECK(it->second.info->type == type, absl::StrCat("metric is of another type: ", std::string(name)));
  VLM_CHECK(SameNames(labels, it->second.info->labels), absl::StrCat("metric has other labels: ", std::string(name)));
  return &it->second;
}

bool MetricRegistry::Impl::Full(size_t series) {
  if (series < kSeriesPerMetricMax) return false;
  refused_->Increment();
  return true;
}

prometheus::Counter* MetricRegistry::Impl::Counter(std::string_view name, const Labels& labels) {
  Metric* metric = Find(name, MetricType::kCounter, labels);
  const auto it = metric->counter.find(labels);
  if (it != metric->counter.end()) return it->second;
  if (Full(metric->counter.size())) return nullptr;
  return metric->counter[labels] = &metric->counters->Add(labels);
}

prometheus::Gauge* MetricRegistry::Impl::Gauge(std::string_view name, const Labels& labels) {
  Metric* metric = Find(name, MetricType::kGauge, labels);
  const auto it = metric->gauge.find(labels);
  if (it != metric->gauge.end()) return it->second;
  if (Full(metric->gauge.size())) return nullptr;
  return metric->gauge[labels] = &metric->gauges->Add(labels);
}

prometheus::Histogram* MetricRegistry::Impl::Histogram(std::string_view name, const Labels& labels) {
  Metric* metric = Find(name, MetricType::kHistogram, labels);
  const auto it = metric->histogram.find(labels);
  if (it != metric->histogram.end()) return it->second;
  if (Full(metric->histogram.size())) return nullptr;
  return metric->histogram[labels] = &metric->histograms->Add(labels, LatencyBuckets());
}

void MetricRegistry::Impl::Remove(const Labels& labels) {
  for (auto& [name, metric] : metrics_) {
    std::erase_if(metric.counter, [&](const auto& series) {
      const bool gone = Contains(series.first, labels);
      if (gone) metric.counters->Remove(series.second);
      return gone;
    });
    std::erase_if(metric.gauge, [&](const auto& series) {
      const bool gone = Contains(series.first, labels);
      if (gone) metric.gauges->Remove(series.second);
      return gone;
    });
    std::erase_if(metric.histogram, [&](const auto& series) {
      const bool gone = Contains(series.first, labels);
      if (gone) metric.histograms->Remove(series.second);
      return gone;
    });
  }
}

void MetricRegistry::Impl::Zero(std::string_view gauge) {
  for (auto& [labels, series] : metrics_.find(gauge)->second.gauge) series->Set(0);
}

std::vector<prometheus::MetricFamily> MetricRegistry::Impl::Collect() const {
  for (const auto& refresh : refresh_) refresh();
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  std::erase_if(families, [](const prometheus::MetricFamily& family) { return family.metric.empty(); });
  return families;
}

MetricRegistry::MetricRegistry() : impl_(std::make_shared<Impl>()) {}
MetricRegistry::~MetricRegistry() = default;

void MetricRegistry::Add(std::string_view counter, const Labels& labels, double delta) {
  VLM_CHECK(delta >= 0, absl::StrCat("a counter never falls: ", std::string(counter)));
  MutexLock lock(&impl_->mutex_);
  if (prometheus::Counter* series = impl_->Counter(counter, labels)) series->Increment(delta);
}

void MetricRegistry::Set(std::string_view gauge, const Labels& labels, double value) {
  MutexLock lock(&impl_->mutex_);
  if (prometheus::Gauge* series = impl_->Gauge(gauge, labels)) series->Set(value);
}

void MetricRegistry::Observe(std::string_view histogram, const Labels& labels, double value) {
  MutexLock lock(&impl_->mutex_);
  if (prometheus::Histogram* series = impl_->Histogram(histogram, labels)) series->Observe(value);
}

void MetricRegistry::SetEach(std::string_view gauge, std::string_view label,
                             const std::map<std::string, int64_t>& values) {
  MutexLock lock(&impl_->mutex_);
  impl_->Zero(gauge);
  for (const auto& [value, count] : values) {
    if (prometheus::Gauge* series = impl_->Gauge(gauge, {{std::string(label), value}})) {
      series->Set(static_cast<double>(count));
    }
  }
}

void MetricRegistry::Remove(const Labels& labels) {
  VLM_CHECK(!labels.empty(), "an empty match would remove every series");
  MutexLock lock(&impl_->mutex_);
  impl_->Remove(labels);
}

void MetricRegistry::BeforeScrape(std::function<void()> refresh) { impl_->refresh_.push_back(std::move(refresh)); }

std::string MetricRegistry::Text() const { return prometheus::TextSerializer().Serialize(impl_->Collect()); }

}  // namespace vlm::telemetry
