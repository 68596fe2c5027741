#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "telemetry/metric_table.h"

namespace vlm::telemetry {
namespace {

TEST(MetricTableTest, NamesFollowTheConventions) {
  std::set<std::string_view> names;
  for (const MetricInfo& info : MetricTable()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name << " stands twice";
    EXPECT_TRUE(info.name.starts_with("vlm_")) << info.name;
    EXPECT_EQ(info.name.ends_with("_total"), info.type == MetricType::kCounter) << info.name;
    if (info.type == MetricType::kHistogram) EXPECT_TRUE(info.name.ends_with("_seconds")) << info.name;
    for (const char* unit : {"_ms", "_milliseconds", "_kb", "_mb", "_minutes"}) {
      EXPECT_FALSE(info.name.ends_with(unit)) << info.name << " is not in a base unit";
    }
    EXPECT_TRUE(info.help.ends_with(".")) << info.name;
    const bool of_a_rank = info.name.starts_with("vlm_rank_");
    EXPECT_EQ(of_a_rank, info.home == MetricHome::kWorker && !info.labels.empty() && info.labels.front() == "job")
        << info.name << ": rank series stand on the worker only";
  }
}

TEST(MetricTableTest, TheDocumentIsTheTable) {
  const std::string path = std::string(VLM_SOURCE_DIR) + "/docs/metrics.md";
  if (std::getenv("UPDATE_DOCS") != nullptr) std::ofstream(path) << MetricsMarkdown();
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), MetricsMarkdown()) << "run this test with UPDATE_DOCS=1 to write docs/metrics.md again";
}

// What the alerts mean by their words promtool tests (tests/integration/alerts); here, that such series exist.
TEST(MetricTableTest, AlertsNameSeriesThatExist) {
  std::stringstream stream;
  stream << std::ifstream(std::string(VLM_SOURCE_DIR) + "/deploy/prometheus/alerts.yaml").rdbuf();
  const std::string text = stream.str();
  const std::regex series("(vlm_[a-z_]+?)(_bucket)?(?=[^a-z_])");
  size_t named = 0;
  for (std::sregex_iterator found(text.begin(), text.end(), series), end; found != end; ++found, ++named) {
    const std::string name = (*found)[1];
    EXPECT_TRUE(std::any_of(MetricTable().begin(), MetricTable().end(), [&](const MetricInfo& info) {
      return info.name == name;
    })) << name;
  }
  EXPECT_GT(named, 7u);
}

}  // namespace
}  // namespace vlm::telemetry
