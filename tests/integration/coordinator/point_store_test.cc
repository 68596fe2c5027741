#include "coordinator/point_store.h"

#include <gtest/gtest.h>

#include "store/simulated_meta_store.h"

namespace vlm::coordinator {
namespace {

class PointStoreTest : public testing::Test {
 protected:
  static v1::MetricBatch Batch(uint64_t fence, uint64_t first, uint64_t last, double value,
                               const std::string& series = "loss") {
    v1::MetricBatch batch;
    batch.set_job_id("job-1");
    batch.set_stage("sft");
    batch.set_fence(fence);
    for (uint64_t step = first; step <= last; ++step) {
      v1::MetricPoint* point = batch.add_points();
      point->set_series(series);
      point->set_step(step);
      point->set_value(value);
    }
    return batch;
  }
  static std::vector<std::pair<uint64_t, double>> Curve(const PointStore& points, int max_points = 0,
                                                        const std::string& series = "loss") {
    v1::QueryMetricsRequest request;
    request.set_job_id("job-1");
    request.set_stage("sft");
    request.set_series(series);
    request.set_max_points(max_points);
    const auto response = points.Query(request);
    EXPECT_TRUE(response.ok()) << response.status();
    std::vector<std::pair<uint64_t, double>> curve;
    for (const auto& point : response->points()) curve.emplace_back(point.step(), point.value());
    return curve;
  }

  store::SimulatedMetaStore store_{{std::string(kPointFamily)}};
};

TEST_F(PointStoreTest, SeriesAreKeptApart) {
  PointStore points({}, &store_);
  ASSERT_EQ(points.Add(Batch(1, 1, 2, 5)).value(), 0u);
  ASSERT_EQ(points.Add(Batch(1, 1, 3, 7, "loss_ema")).value(), 0u);
  using Point = std::pair<uint64_t, double>;
  EXPECT_EQ(Curve(points), (std::vector<Point>{{1, 5}, {2, 5}}));
  EXPECT_EQ(Curve(points, 0, "loss_ema").size(), 3u);
}

TEST_F(PointStoreTest, ANewAttemptWinsFromItsFirstStepOn) {
  PointStore points({}, &store_);
  ASSERT_TRUE(points.Add(Batch(1, 1, 10, 1)).ok());
  ASSERT_TRUE(points.Add(Batch(2, 6, 7, 2)).ok());  // resumed after step 5
  ASSERT_TRUE(points.Add(Batch(1, 6, 8, 1)).ok());  // late words of the old one
  std::vector<std::pair<uint64_t, double>> expected;
  for (uint64_t step = 1; step <= 5; ++step) expected.emplace_back(step, 1);
  expected.emplace_back(6, 2);
  expected.emplace_back(7, 2);
  EXPECT_EQ(Curve(points), expected) << "steps 8 to 10 were rolled back";
}

TEST_F(PointStoreTest, LongCurvesAreThinnedEvenlyAndKeepTheLastPoint) {
  PointStore points({}, &store_);
  ASSERT_TRUE(points.Add(Batch(1, 1, 1000, 1)).ok());
  const auto curve = Curve(points, 10);
  ASSERT_EQ(curve.size(), 10u);
  EXPECT_EQ(curve.back().first, 1000u);
  for (size_t i = 1; i < curve.size(); ++i) EXPECT_EQ(curve[i].first - curve[i - 1].first, 100u);
  EXPECT_EQ(Curve(points, 999).size(), 500u);
  EXPECT_EQ(Curve(points).size(), 1000u);
}

TEST_F(PointStoreTest, PointsOfAJobAreBoundedAlsoAfterARestart) {
  PointStoreOptions options;
  options.points_per_job_max = 5;
  PointStore points(options, &store_);
  EXPECT_EQ(points.Add(Batch(1, 1, 4, 1)).value(), 0u);
  PointStore reopened(options, &store_);
  EXPECT_EQ(reopened.Add(Batch(1, 3, 8, 2)).value(), 3u) << "3 and 4 are replaced, 5 is new, 6 to 8 are too many";
  EXPECT_EQ(Curve(reopened).size(), 5u);
}

TEST_F(PointStoreTest, BadNamesAreCountedOrRefused) {
  PointStore points({}, &store_);
  EXPECT_EQ(points.Add(Batch(1, 1, 2, 1, "Loss!")).value(), 2u);
  v1::MetricBatch batch = Batch(1, 1, 1, 1);
  batch.set_job_id(std::string("a\0b", 3));
  EXPECT_TRUE(absl::IsInvalidArgument(points.Add(batch).status()));
  v1::QueryMetricsRequest request;
  request.set_job_id("job-1");
  request.set_series("loss");
  request.set_max_points(-1);
  EXPECT_TRUE(absl::IsInvalidArgument(points.Query(request).status()));
  request.set_max_points(0);
  request.set_series("");
  EXPECT_TRUE(absl::IsInvalidArgument(points.Query(request).status()));
}

}  // namespace
}  // namespace vlm::coordinator
