#include "worker/registry_metrics.h"

#include <gtest/gtest.h>

namespace vlm::worker {
namespace {

class FixedClock final : public Clock {
 public:
  absl::Duration Monotonic() const override { return now; }
  absl::Time Wall() const override { return absl::FromUnixSeconds(1000) + now; }
  absl::Duration now = absl::Seconds(5);
};

class RegistryMetricsTest : public testing::Test {
 protected:
  void Point(const std::string& series, double value) {
    v1::MetricPoint point;
    point.set_series(series);
    point.set_value(value);
    metrics_.RankPoint(rank_, point);
  }
  bool Shows(const std::string& line) { return registry_.Text().find(line) != std::string::npos; }
  FixedClock clock_;
  telemetry::MetricRegistry registry_;
  RegistryMetrics metrics_{&registry_, &clock_};
  const RankLabels rank_{.job_id = "j", .stage = "sft", .fence = 3, .rank = 0};
};

TEST_F(RegistryMetricsTest, ARanksSeriesLiveFromItsStartToItsEnd) {
  Point("loss", 7);
  EXPECT_FALSE(Shows("vlm_rank_loss{")) << "before its start";
  metrics_.RankStarted(rank_);
  Point("loss", 2.5);
  Point("tokens", 100);
  Point("tokens", 50);
  Point("step_seconds_forward", 0.5);
  Point("step_seconds_forward", 0.25);
  Point("step_seconds_data", 0.125);
  Point("checkpoint_ok", 1);
  v1::RankBeat beat;
  beat.set_step(17);
  beat.set_phase(v1::RANK_PHASE_STEP);
  metrics_.RankBeat(rank_, beat);
  const std::string text = registry_.Text();
  EXPECT_TRUE(Shows("vlm_rank_loss{job=\"j\",rank=\"0\",stage=\"sft\"} 2.5")) << text;
  EXPECT_TRUE(Shows("vlm_rank_tokens_total{job=\"j\",rank=\"0\",stage=\"sft\"} 150")) << text;
  EXPECT_TRUE(Shows("vlm_rank_step{job=\"j\",rank=\"0\",stage=\"sft\"} 17")) << text;
  EXPECT_TRUE(Shows("vlm_rank_data_wait_seconds_total{job=\"j\",rank=\"0\",stage=\"sft\"} 0.125")) << text;
  EXPECT_NE(text.find("vlm_rank_step_seconds_total{"), std::string::npos);
  EXPECT_NE(text.find("vlm_rank_checkpoint_success_timestamp_seconds{"), std::string::npos);
  metrics_.RankEnded(rank_, v1::FAILURE_CLASS_UNSPECIFIED);
  EXPECT_FALSE(Shows("job=\"j\""));
  Point("loss", 1);
  EXPECT_FALSE(Shows("vlm_rank_loss{")) << "late words start no series again";
}

TEST_F(RegistryMetricsTest, WorkerSeriesAreThereFromTheStart) {
  EXPECT_TRUE(Shows("vlm_worker_connected 0"));
  metrics_.SessionChanged(true);
  EXPECT_TRUE(Shows("vlm_worker_connected 1"));
  EXPECT_TRUE(Shows("vlm_worker_calls_waiting 0"));
  metrics_.CallsWaiting(2);
  EXPECT_TRUE(Shows("vlm_worker_calls_waiting 2"));
  metrics_.LogShipped(10, 4);
  EXPECT_TRUE(Shows("vlm_worker_telemetry_dropped_total{kind=\"log_bytes\"} 4"));
}

}  // namespace
}  // namespace vlm::worker
