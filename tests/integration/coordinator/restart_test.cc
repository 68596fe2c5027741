// What a restart of the coordinator must not change.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/integration/coordinator/fake_worker.h"

namespace vlm::coordinator {
namespace {

using testing::HasSubstr;

TEST(CoordinatorRestartTest, JobsRequestIdsAndPortsSurvive) {
  RunningServer server("restart");
  ASSERT_TRUE(server.Start().ok());
  const std::string address = server.server()->address();
  const absl::StatusOr<std::string> first = server.Submit(GenerateJob("kept"), "same-id");
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(server.Submit(GenerateJob("other"), "other-id").ok());
  v1::ListJobsRequest list;
  list.set_page_size(1);
  const auto page = server.Call<v1::ListJobsResponse>("JobService/ListJobs", list);
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->jobs(0).name(), "other") << "newest first";

  server.Stop();
  ASSERT_TRUE(server.Start().ok());
  EXPECT_EQ(server.server()->address(), address) << "workers find it where it was";
  const absl::StatusOr<std::string> again = server.Submit(GenerateJob("kept"), "same-id");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, *first);
  const absl::Status other = server.Submit(GenerateJob("changed"), "same-id").status();
  EXPECT_TRUE(absl::IsAlreadyExists(other)) << other;
  list.set_page_token(page->next_page_token());
  const auto rest = server.Call<v1::ListJobsResponse>("JobService/ListJobs", list);
  ASSERT_TRUE(rest.ok()) << rest.status();
  ASSERT_EQ(rest->jobs_size(), 1);
  EXPECT_EQ(rest->jobs(0).job_id(), *first);
  EXPECT_EQ(server.GetJob(*first).job_yaml(), GenerateJob("kept"));
}

TEST(CoordinatorRestartTest, AWatchGoesOnFromItsCursorWithoutGapOrRepeat) {
  RunningServer server("watch");
  ASSERT_TRUE(server.Start().ok());
  const absl::StatusOr<std::string> id = server.Submit(GenerateJob("watched"), "r1");
  ASSERT_TRUE(id.ok()) << id.status();
  std::string cursor;
  std::vector<uint64_t> seen;
  const auto watch_until = [&](const std::string& kind) {
    const auto channel = server.ChannelAs("user");
    auto inbox = std::make_shared<Inbox>();
    v1::WatchEventsRequest request;
    request.set_cursor(cursor);
    const auto stream = channel->Open("/vlm.v1.JobService/WatchEvents", {.wait_for_ready = true}, inbox);
    stream->Send(request.SerializeAsString());
    while (true) {
      const auto message = inbox->Next<v1::WatchEventsResponse>();
      ASSERT_TRUE(message.ok()) << message.status();
      if (!message->has_event()) continue;
      seen.push_back(message->event().sequence());
      cursor = message->cursor();
      if (message->event().kind() == kind) return;
    }
  };
  watch_until("job.submitted");
  server.Stop();
  ASSERT_TRUE(server.Start().ok());
  v1::CancelJobRequest cancel;
  cancel.set_job_id(*id);
  ASSERT_TRUE(server.Call<v1::CancelJobResponse>("JobService/CancelJob", cancel).ok());
  watch_until("job.cancelled");
  for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], i + 1);

  // A cursor of another store is refused, not followed into nonsense.
  RunningServer stranger("watch-stranger");
  ASSERT_TRUE(stranger.Start().ok());
  const auto channel = stranger.ChannelAs("user");
  for (const std::string& bad : {cursor, std::string("short")}) {
    auto inbox = std::make_shared<Inbox>();
    v1::WatchEventsRequest request;
    request.set_cursor(bad);
    const auto stream = channel->Open("/vlm.v1.JobService/WatchEvents", {.wait_for_ready = true}, inbox);
    stream->Send(request.SerializeAsString());
    const absl::Status status = inbox->Next().status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status)) << status;
  }
}

TEST(CoordinatorRestartTest, ARunningAttemptGoesOnUnderAHigherEpoch) {
  RunningServer server("reattach");
  ASSERT_TRUE(server.Start().ok());
  FakeWorker worker(&server, "node-a");
  ASSERT_TRUE(worker.Connect().ok());
  const absl::StatusOr<std::string> id = server.Submit(GenerateJob("reattach", 3), "r1");
  ASSERT_TRUE(id.ok()) << id.status();
  const auto assigned = worker.WaitFor(v1::SessionResponse::kAssign);
  ASSERT_TRUE(assigned.ok()) << assigned.status();
  const v1::Assign assign = assigned->assign();
  worker.Ready(assign);
  ASSERT_TRUE(worker.DoShards(assign, 1).ok());
  server.Stop();
  ASSERT_TRUE(server.Start().ok());
  EXPECT_EQ(server.GetJob(*id).stages(0).progress().done(), 1u);

  v1::HeldRank held;
  held.set_attempt_id(assign.attempt_id());
  held.set_fence(assign.fence());
  held.set_rank(assign.ranks(0).rank());
  held.set_phase(v1::RANK_PHASE_STEP);
  const auto welcome = worker.Connect({held});
  ASSERT_TRUE(welcome.ok()) << welcome.status();
  ASSERT_EQ(welcome->allowed_size(), 1) << "the rank may go on";
  EXPECT_EQ(welcome->allowed(0).attempt_id(), assign.attempt_id());
  ASSERT_TRUE(worker.DoShards(assign).ok());
  worker.Exit(assign, 0);
  ASSERT_TRUE(worker.WaitFor(v1::SessionResponse::kResult).ok());
  const auto user = server.ChannelAs("user");
  auto events = std::make_shared<Inbox>();
  v1::WatchEventsRequest watch;
  watch.set_job_id(*id);
  const auto watching = user->Open("/vlm.v1.JobService/WatchEvents", {.wait_for_ready = true}, events);
  watching->Send(watch.SerializeAsString());
  int attempts = 0;
  for (std::string kind; kind != "job.succeeded";) {
    const auto message = events->Next<v1::WatchEventsResponse>();
    ASSERT_TRUE(message.ok()) << message.status();
    if (!message->has_event()) continue;
    kind = message->event().kind();
    attempts += kind == "attempt.fencing";
  }
  EXPECT_EQ(attempts, 1) << "a restart of the coordinator costs no attempt";
}

TEST(CoordinatorRestartTest, ASecondCoordinatorOnOneStateFolderIsRefused) {
  RunningServer first("locked");
  ASSERT_TRUE(first.Start().ok());
  RunningServer second("locked-second");
  second.options().state_dir = first.options().state_dir;
  const absl::Status status = second.Start();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(first.options().state_dir));
}

TEST(CoordinatorRestartTest, APortInUseIsRefusedAndThePortIsNamed) {
  RunningServer first("port");
  ASSERT_TRUE(first.Start().ok());
  RunningServer second("port-second");
  second.options().address = first.server()->address();
  const absl::Status grpc = second.Start();
  EXPECT_TRUE(absl::IsAlreadyExists(grpc)) << grpc;
  EXPECT_THAT(std::string(grpc.message()), HasSubstr(first.server()->address().substr(10)));
  second.options().address = "127.0.0.1:0";
  second.options().metrics_address = first.server()->metrics_address();
  const absl::Status metrics = second.Start();
  EXPECT_TRUE(absl::IsAlreadyExists(metrics)) << metrics;
  second.options().metrics_address = "127.0.0.1:0";
  EXPECT_TRUE(second.Start().ok()) << "a refused start leaves nothing behind";
}

}  // namespace
}  // namespace vlm::coordinator
