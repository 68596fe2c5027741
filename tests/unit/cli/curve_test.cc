#include "cli/curve.h"

#include <gmock/gmock.h>

#include "tests/unit/cli/cli_fixture.h"

namespace vlm::cli {
namespace {

using testing::HasSubstr;

class CurveTest : public CliFixture {
 protected:
  void SetUp() override {
    v1::Job job;
    job.set_job_id("shapes-1");
    job.set_name("shapes");
    for (const char* name : {"pretrain", "sft"}) {
      v1::Stage* stage = job.add_stages();
      stage->set_name(name);
      stage->set_state(name == std::string("sft") ? v1::STAGE_STATE_ACTIVE : v1::STAGE_STATE_SUCCEEDED);
    }
    coordinator_.AddJob(job);
    rpc::ServiceRegistry registry = coordinator_.Registry();
    registry.AddUnary<v1::QueryMetricsRequest, v1::QueryMetricsResponse>(
        "/vlm.v1.JobService/QueryMetrics",
        [this](const rpc::CallContext&, const v1::QueryMetricsRequest& request,
               const std::function<void(absl::StatusOr<v1::QueryMetricsResponse>)>& respond) {
          asked_ = request;
          respond(curve_);
        });
    transport_.Serve(std::move(registry));
    for (const auto& [step, value] : {std::pair(1, 4.5), {20, 0.03125}}) {
      v1::QueryMetricsResponse::Point* point = curve_.add_points();
      point->set_step(static_cast<uint64_t>(step));
      point->set_value(value);
    }
  }

  v1::QueryMetricsResponse curve_;
  v1::QueryMetricsRequest asked_;
};

TEST_F(CurveTest, PrintsAPointPerLine) {
  EXPECT_EQ(Run({"curve", "shapes", "loss", "--stage", "pretrain", "--points", "2"}), 0) << err();
  EXPECT_EQ(out(), "STEP  LOSS\n1     4.5\n20    0.03125\n");
  EXPECT_EQ(asked_.job_id(), "shapes-1");
  EXPECT_EQ(asked_.stage(), "pretrain");
  EXPECT_EQ(asked_.series(), "loss");
  EXPECT_EQ(asked_.max_points(), 2);
}

TEST_F(CurveTest, ChoosesTheStageThatRunsAndPrintsJson) {
  EXPECT_EQ(Run({"curve", "shapes", "loss", "-o", "json"}), 0) << err();
  EXPECT_EQ(asked_.stage(), "sft");
  EXPECT_THAT(out(), HasSubstr("0.03125"));
}

TEST_F(CurveTest, ASeriesWithoutPointsIsNotFound) {
  curve_.clear_points();
  EXPECT_NE(Run({"curve", "shapes", "los"}), 0);
  EXPECT_THAT(err(), HasSubstr("no points of this series"));
  EXPECT_THAT(err(), HasSubstr("los"));
  EXPECT_NE(Run({"curve", "shapes", "loss", "--stage", "align"}), 0);
  EXPECT_THAT(err(), HasSubstr("pretrain, sft"));
}

}  // namespace
}  // namespace vlm::cli
