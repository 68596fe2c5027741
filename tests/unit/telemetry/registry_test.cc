#include "telemetry/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace vlm::telemetry {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(MetricRegistryTest, CountersGaugesAndHistogramsShowInTheText) {
  MetricRegistry registry;
  registry.Add("vlm_heartbeats_total", {}, 2);
  registry.Add("vlm_heartbeats_total", {}, 3);
  registry.Set("vlm_jobs", {{"state", "running"}}, 4);
  registry.Observe("vlm_submit_seconds", {}, 0.002);
  const std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr("# TYPE vlm_heartbeats_total counter"));
  EXPECT_THAT(text, HasSubstr("vlm_heartbeats_total 5\n"));
  EXPECT_THAT(text, HasSubstr("vlm_jobs{state=\"running\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("vlm_submit_seconds_bucket{le=\"0.001\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("vlm_submit_seconds_bucket{le=\"0.0025\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("vlm_submit_seconds_count 1\n"));
}

TEST(MetricRegistryTest, AMetricWithoutSeriesIsNotShown) {
  MetricRegistry registry;
  EXPECT_THAT(registry.Text(), Not(HasSubstr("vlm_jobs")));
}

TEST(MetricRegistryTest, RemoveTakesEverySeriesWithTheLabelsAndNoOther) {
  MetricRegistry registry;
  for (const char* rank : {"0", "1"}) {
    for (const char* stage : {"sft", "align"}) {
      registry.Set("vlm_rank_loss", {{"job", "a"}, {"stage", stage}, {"rank", rank}}, 1);
      registry.Add("vlm_rank_tokens_total", {{"job", "a"}, {"stage", stage}, {"rank", rank}}, 1);
    }
  }
  registry.Remove({{"job", "a"}, {"stage", "sft"}});
  const std::string text = registry.Text();
  EXPECT_THAT(text, Not(HasSubstr("stage=\"sft\"")));
  EXPECT_THAT(text, HasSubstr("vlm_rank_loss{job=\"a\",rank=\"1\",stage=\"align\"} 1"));
  EXPECT_THAT(text, HasSubstr("vlm_rank_tokens_total{job=\"a\",rank=\"0\",stage=\"align\"} 1"));
}

TEST(MetricRegistryTest, ARemovedCounterBeginsAgainAtZero) {
  MetricRegistry registry;
  const Labels labels = {{"job", "a"}, {"stage", "sft"}, {"rank", "0"}};
  registry.Add("vlm_rank_tokens_total", labels, 7);
  registry.Remove({{"job", "a"}});
  registry.Add("vlm_rank_tokens_total", labels, 1);
  EXPECT_THAT(registry.Text(), HasSubstr("vlm_rank_tokens_total{job=\"a\",rank=\"0\",stage=\"sft\"} 1\n"));
}

TEST(MetricRegistryTest, SetEachZeroesWhatIsAbsent) {
  MetricRegistry registry;
  registry.SetEach("vlm_jobs", "state", {{"pending", 2}, {"running", 1}});
  registry.SetEach("vlm_jobs", "state", {{"running", 3}});
  const std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr("vlm_jobs{state=\"pending\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("vlm_jobs{state=\"running\"} 3\n"));
}

TEST(MetricRegistryTest, SeriesOfOneMetricAreBoundedAndRefusalsCounted) {
  MetricRegistry registry;
  for (size_t i = 0; i < kSeriesPerMetricMax + 5; ++i) {
    registry.Set("vlm_rank_loss", {{"job", std::to_string(i)}, {"stage", "s"}, {"rank", "0"}}, 1);
  }
  const std::string text = registry.Text();
  EXPECT_THAT(text, Not(HasSubstr("job=\"" + std::to_string(kSeriesPerMetricMax) + "\"")));
  EXPECT_THAT(text, HasSubstr("vlm_metric_series_refused_total 5\n"));
}

TEST(MetricRegistryTest, RefreshRunsBeforeEachScrape) {
  MetricRegistry registry;
  int scrapes = 0;
  registry.BeforeScrape([&] { registry.Set("vlm_slots", {}, ++scrapes); });
  EXPECT_THAT(registry.Text(), HasSubstr("vlm_slots 1\n"));
  EXPECT_THAT(registry.Text(), HasSubstr("vlm_slots 2\n"));
}

TEST(MetricRegistryDeathTest, ANameOrLabelsThatAreNotInTheTableAreProgrammersErrors) {
  MetricRegistry registry;
  EXPECT_DEATH(registry.Add("vlm_nothing_total", {}, 1), "no such metric");
  EXPECT_DEATH(registry.Set("vlm_jobs", {}, 1), "other labels");
  EXPECT_DEATH(registry.Set("vlm_heartbeats_total", {}, 1), "another type");
}

}  // namespace
}  // namespace vlm::telemetry
