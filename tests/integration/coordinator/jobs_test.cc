// Jobs as a person sees them, without workers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_system.h"
#include "rpc/bad_request.h"
#include "tests/integration/coordinator/running_server.h"

namespace vlm::coordinator {
namespace {

using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(CoordinatorJobsTest, SubmitGetListCancel) {
  RunningServer server("jobs");
  ASSERT_TRUE(server.Start().ok());
  const absl::StatusOr<std::string> id = server.Submit(GenerateJob("first"), "r1");
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_TRUE(id->starts_with("first-")) << *id;

  const v1::Job job = server.GetJob(*id);
  EXPECT_EQ(job.state(), v1::JOB_STATE_PENDING);
  EXPECT_EQ(job.job_yaml(), GenerateJob("first"));
  ASSERT_EQ(job.stages_size(), 1);
  EXPECT_EQ(job.stages(0).state(), v1::STAGE_STATE_QUEUED);
  EXPECT_FALSE(job.stages(0).reason().empty());
  EXPECT_EQ(job.artifacts(), server.options().artifact_roots[0]);

  v1::CancelJobRequest cancel;
  cancel.set_job_id(*id);
  cancel.set_note("changed my mind");
  const auto cancelled = server.Call<v1::CancelJobResponse>("JobService/CancelJob", cancel);
  ASSERT_TRUE(cancelled.ok()) << cancelled.status();
  EXPECT_EQ(cancelled->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(server.GetJob(*id).state(), v1::JOB_STATE_CANCELLED);
  v1::RetryJobRequest retry;
  retry.set_job_id(*id);
  EXPECT_TRUE(absl::IsFailedPrecondition(server.Call<v1::RetryJobResponse>("JobService/RetryJob", retry).status()));
}

TEST(CoordinatorJobsTest, UnknownJobsAreNotFoundByEveryMethod) {
  RunningServer server("unknown");
  ASSERT_TRUE(server.Start().ok());
  v1::GetJobRequest get;
  get.set_job_id("nobody");
  EXPECT_TRUE(absl::IsNotFound(server.Call<v1::GetJobResponse>("JobService/GetJob", get).status()));
  v1::CancelJobRequest cancel;
  cancel.set_job_id("nobody");
  EXPECT_TRUE(absl::IsNotFound(server.Call<v1::CancelJobResponse>("JobService/CancelJob", cancel).status()));
  v1::QueryMetricsRequest query;
  query.set_job_id("nobody");
  query.set_series("loss");
  EXPECT_TRUE(absl::IsNotFound(server.Call<v1::QueryMetricsResponse>("JobService/QueryMetrics", query).status()));
  v1::WatchEventsRequest watch;
  watch.set_job_id("nobody");
  auto inbox = std::make_shared<Inbox>();
  const auto channel = server.ChannelAs("user");
  const auto stream = channel->Open("/vlm.v1.JobService/WatchEvents", {.wait_for_ready = true}, inbox);
  stream->Send(watch.SerializeAsString());
  EXPECT_TRUE(absl::IsNotFound(inbox->Next().status()));
  v1::TailLogsRequest tail;
  tail.set_job_id("nobody");
  tail.set_stage("generate");
  auto log = std::make_shared<Inbox>();
  const auto logs = channel->Open("/vlm.v1.JobService/TailLogs", {.wait_for_ready = true}, log);
  logs->Send(tail.SerializeAsString());
  EXPECT_TRUE(absl::IsNotFound(log->Next().status()));
}

TEST(CoordinatorJobsTest, ABadJobFileIsRefusedWithPathLineAndColumn) {
  RunningServer server("bad");
  ASSERT_TRUE(server.Start().ok());
  std::string yaml = GenerateJob("bad");
  yaml += "        colour: red\n";
  const absl::Status status = server.Submit(yaml, "r1").status();
  ASSERT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("colour"));
  EXPECT_THAT(Message(status), HasSubstr("line 14, column 9"));
  EXPECT_THAT(Message(status), HasSubstr("spec.stages"));
  const std::vector<rpc::FieldViolation> violations = rpc::ViolationsOf(status);
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_THAT(violations[0].field, HasSubstr("spec.stages"));
  EXPECT_THAT(violations[0].description, HasSubstr("line 14, column 9: "));
  v1::ListJobsRequest list;
  EXPECT_EQ(server.Call<v1::ListJobsResponse>("JobService/ListJobs", list)->jobs_size(), 0);

  EXPECT_TRUE(absl::IsInvalidArgument(server.Submit(std::string((1 << 20) + 1, ' '), "r2").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(server.Submit(GenerateJob("x"), "").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(server.Submit(GenerateJob("x"), std::string(129, 'r')).status()));
}

TEST(CoordinatorJobsTest, AHundredErrorsFitIntoAnAnswer) {
  RunningServer server("many");
  ASSERT_TRUE(server.Start().ok());
  std::string yaml = GenerateJob("bad");
  for (int i = 0; i < 150; ++i) yaml += "        no_such_key_" + std::to_string(i) + ": red\n";
  const absl::Status status = server.Submit(yaml, "r1").status();
  ASSERT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("no_such_key_0"));
  EXPECT_THAT(Message(status), testing::ContainsRegex("and [0-9]+ more errors"));
  EXPECT_GT(rpc::ViolationsOf(status).size(), 10u);
}

TEST(CoordinatorJobsTest, ArtifactsOutsideTheAllowedRootsAreRefused) {
  RunningServer server("roots");
  ASSERT_TRUE(server.Start().ok());
  const std::string root = server.options().artifact_roots[0];
  for (const std::string& folder : {std::string("/etc"), root + "/../elsewhere", root + "//twice", root + "-other"}) {
    const absl::Status status = server.Submit(GenerateJob("x") + "  artifacts: " + folder + "\n", "r").status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << folder << ": " << status;
    EXPECT_THAT(Message(status), HasSubstr("spec.artifacts"));
  }
  EXPECT_TRUE(server.Submit(GenerateJob("x") + "  artifacts: " + root + "/team\n", "r").ok());
}

TEST(CoordinatorJobsTest, ValidateOnlyStoresNothing) {
  RunningServer server("validate");
  ASSERT_TRUE(server.Start().ok());
  v1::SubmitJobRequest request;
  request.set_job_yaml(GenerateJob("valid"));
  request.set_validate_only(true);
  const auto response = server.Call<v1::SubmitJobResponse>("JobService/SubmitJob", request);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->job_id(), "");
  EXPECT_EQ(server.Call<v1::ListJobsResponse>("JobService/ListJobs", v1::ListJobsRequest())->jobs_size(), 0);
  request.set_job_yaml("kind: [");
  EXPECT_TRUE(absl::IsInvalidArgument(server.Call<v1::SubmitJobResponse>("JobService/SubmitJob", request).status()));
}

TEST(CoordinatorJobsTest, ManySubmitsAtOnceAreAllStoredAndListedInPages) {
  RunningServer server("many");
  ASSERT_TRUE(server.Start().ok());
  constexpr int kJobs = 150;
  const auto channel = server.ChannelAs("user");
  Mutex mutex;
  CondVar changed;
  std::map<std::string, int> answers;
  int answered = 0;
  for (int i = 0; i < kJobs; ++i) {
    v1::SubmitJobRequest request;
    request.set_job_yaml(GenerateJob("many"));
    request.set_request_id("r" + std::to_string(i));
    channel->Call("/vlm.v1.JobService/SubmitJob", request.SerializeAsString(),
                  {.deadline = kPatience, .wait_for_ready = true}, [&](absl::StatusOr<std::string> bytes) {
                    v1::SubmitJobResponse response;
                    MutexLock lock(&mutex);
                    if (bytes.ok() && response.ParseFromString(*bytes)) ++answers[response.job_id()];
                    ++answered;
                    changed.NotifyAll();
                  });
  }
  {
    MutexLock lock(&mutex);
    while (answered < kJobs) changed.Wait(&mutex);
    EXPECT_EQ(answers.size(), static_cast<size_t>(kJobs)) << "every submit has a job of its own";
  }
  std::set<std::string> listed;
  v1::ListJobsRequest list;
  list.set_page_size(40);
  int pages = 0;
  do {
    const auto page = server.Call<v1::ListJobsResponse>("JobService/ListJobs", list);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const v1::Job& job : page->jobs()) EXPECT_TRUE(listed.insert(job.job_id()).second) << job.job_id();
    list.set_page_token(page->next_page_token());
    ++pages;
  } while (!list.page_token().empty() && pages < 10);
  EXPECT_EQ(pages, 4);
  for (const auto& [id, times] : answers) EXPECT_TRUE(listed.contains(id)) << id;
}

}  // namespace
}  // namespace vlm::coordinator
