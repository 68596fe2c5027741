// A stage from submit to artifact through a worker's session, with everything a person can watch of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_system.h"
#include "telemetry/metric_table.h"
#include "tests/integration/coordinator/fake_worker.h"
#include "tests/unit/telemetry/http_get.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/node.pb.h"

namespace vlm::coordinator {
namespace {

using testing::HasSubstr;

// Sends one telemetry request and waits until it is handled.
absl::StatusOr<v1::ShipTelemetryResponse> Ship(RunningServer* server, const v1::ShipTelemetryRequest& request) {
  const auto channel = server->ChannelAs("worker");
  auto inbox = std::make_shared<Inbox>();
  const auto stream = channel->Open("/vlm.v1.WorkerService/ShipTelemetry", {.wait_for_ready = true}, inbox);
  stream->Send(request.SerializeAsString());
  return inbox->Next<v1::ShipTelemetryResponse>();
}

v1::ShipTelemetryRequest LogOf(const std::string& job, uint64_t fence, uint64_t offset, const std::string& data) {
  v1::ShipTelemetryRequest request;
  v1::LogChunk* log = request.mutable_log();
  log->set_job_id(job);
  log->set_stage("generate");
  log->set_fence(fence);
  log->set_offset(offset);
  log->set_data(data);
  return request;
}

double MetricValue(const std::string& scrape, const std::string& series) {
  const size_t at = scrape.find("\n" + series + " ");
  if (at == std::string::npos) return -1;
  return std::stod(scrape.substr(at + series.size() + 2));
}

// A job of one pool and what the worker, the only one, is told to start for it.
absl::StatusOr<v1::SessionResponse> AssignedPool(RunningServer* server, FakeWorker* worker) {
  VLM_RETURN_IF_ERROR(worker->Connect().status());
  VLM_RETURN_IF_ERROR(server->Submit(GenerateJob("pool", 1), "r1").status());
  return worker->WaitFor(v1::SessionResponse::kAssign);
}

TEST(CoordinatorStageTest, ShardsAnswerOnlyToTheWorkerTheyAreLeasedTo) {
  RunningServer server("leases");
  ASSERT_TRUE(server.Start().ok());
  FakeWorker worker(&server, "node-a");
  const auto assigned = AssignedPool(&server, &worker);
  ASSERT_TRUE(assigned.ok()) << assigned.status();
  worker.Ready(assigned->assign());
  v1::LeaseShardsRequest lease;
  lease.set_stage_uid(assigned->assign().spec().stage_uid());
  lease.set_fence(assigned->assign().fence());
  lease.set_count(1);
  const auto leased = worker.Call<v1::LeaseShardsResponse>("DataService/LeaseShards", lease);
  ASSERT_TRUE(leased.ok() && leased->leases_size() == 1) << leased.status();
  v1::CommitShardRequest commit;
  commit.set_stage_uid(lease.stage_uid());
  commit.set_fence(lease.fence());
  commit.set_shard(leased->leases(0).shard());
  commit.set_lease_id(leased->leases(0).lease_id());
  FakeWorker other(&server, "node-b");
  EXPECT_TRUE(
      absl::IsPermissionDenied(other.Call<v1::CommitShardResponse>("DataService/CommitShard", commit).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      server.Call<v1::CommitShardResponse>("DataService/CommitShard", commit, "worker").status()))
      << "a call that names no worker";
  EXPECT_TRUE(worker.Call<v1::CommitShardResponse>("DataService/CommitShard", commit).ok());
}

TEST(CoordinatorStageTest, StepsAreWrittenOnlyThroughAWorkerOfTheAttempt) {
  RunningServer server("writers");
  ASSERT_TRUE(server.Start().ok());
  FakeWorker worker(&server, "node-a");
  const auto assigned = AssignedPool(&server, &worker);
  ASSERT_TRUE(assigned.ok()) << assigned.status();
  v1::BeginStepRequest begin;
  begin.set_stage_uid(assigned->assign().spec().stage_uid());
  begin.set_fence(assigned->assign().fence());
  begin.set_step(1);
  begin.set_world(2);  // not complete with this part, so that it can be given up
  v1::AddPartRequest part;
  part.set_stage_uid(begin.stage_uid());
  part.set_fence(begin.fence());
  part.set_step(1);
  v1::DeleteStepRequest give_up;
  give_up.set_stage_uid(begin.stage_uid());
  give_up.set_fence(begin.fence());
  give_up.set_step(1);
  const auto outcome = [&](FakeWorker* caller) {
    return std::vector<absl::StatusCode>{
        caller->Call<v1::BeginStepResponse>("CheckpointService/BeginStep", begin).status().code(),
        caller->Call<v1::AddPartResponse>("CheckpointService/AddPart", part).status().code(),
        caller->Call<v1::DeleteStepResponse>("CheckpointService/DeleteStep", give_up).status().code()};
  };
  FakeWorker other(&server, "node-b");
  EXPECT_THAT(outcome(&other), testing::Each(absl::StatusCode::kPermissionDenied));
  EXPECT_TRUE(absl::IsInvalidArgument(
      server.Call<v1::BeginStepResponse>("CheckpointService/BeginStep", begin, "worker").status()))
      << "a call that names no worker";
  EXPECT_THAT(outcome(&worker), testing::Each(absl::StatusCode::kOk));
  begin.set_fence(begin.fence() + 1);
  EXPECT_TRUE(
      absl::IsFailedPrecondition(worker.Call<v1::BeginStepResponse>("CheckpointService/BeginStep", begin).status()));
}

TEST(CoordinatorStageTest, APoolRunsToItsArtifactAndIsSeenToDoSo) {
  RunningServer server("stage");
  ASSERT_TRUE(server.Start().ok());
  FakeWorker worker(&server, "node-a");
  ASSERT_TRUE(worker.Connect().ok());
  const absl::StatusOr<std::string> id = server.Submit(GenerateJob("pool", 3), "r1");
  ASSERT_TRUE(id.ok()) << id.status();

  const auto assigned = worker.WaitFor(v1::SessionResponse::kAssign);
  ASSERT_TRUE(assigned.ok()) << assigned.status();
  const v1::Assign& assign = assigned->assign();
  EXPECT_EQ(assign.spec().job_id(), *id);
  EXPECT_EQ(assign.spec().shards(), 3u);
  EXPECT_EQ(assigned->coordinator_epoch(), 1u);
  worker.Ready(assign);
  const std::string before = telemetry::HttpGet(server.server()->metrics_address(), "/metrics");

  // Logs and points of the rank, seen while it runs.
  const std::string text = "line one\nline two\n";
  auto shipped = Ship(&server, LogOf(*id, assign.fence(), 0, text));
  ASSERT_TRUE(shipped.ok()) << shipped.status();
  EXPECT_GT(shipped->credit_bytes(), text.size());
  ASSERT_EQ(shipped->logs_size(), 1);
  EXPECT_EQ(shipped->logs(0).offset(), text.size());
  v1::ShipTelemetryRequest points;
  points.mutable_metrics()->set_job_id(*id);
  points.mutable_metrics()->set_stage("generate");
  points.mutable_metrics()->set_fence(assign.fence());
  for (int step = 1; step <= 3; ++step) {
    v1::MetricPoint* point = points.mutable_metrics()->add_points();
    point->set_series("loss");
    point->set_step(step);
    point->set_value(1.0 / step);
  }
  ASSERT_TRUE(Ship(&server, points).ok());
  v1::QueryMetricsRequest query;
  query.set_job_id(*id);
  query.set_stage("generate");
  query.set_series("loss");
  const auto curve = server.Call<v1::QueryMetricsResponse>("JobService/QueryMetrics", query);
  ASSERT_TRUE(curve.ok()) << curve.status();
  ASSERT_EQ(curve->points_size(), 3);
  EXPECT_EQ(curve->points(1).step(), 2u);
  EXPECT_EQ(curve->points(1).value(), 0.5);

  const auto user = server.ChannelAs("user");
  auto log = std::make_shared<Inbox>();
  v1::TailLogsRequest tail;
  tail.set_job_id(*id);
  tail.set_stage("generate");
  tail.set_follow(true);
  const auto tailing = user->Open("/vlm.v1.JobService/TailLogs", {.wait_for_ready = true}, log);
  tailing->Send(tail.SerializeAsString());
  const auto piece = log->Next<v1::TailLogsResponse>();
  ASSERT_TRUE(piece.ok()) << piece.status();
  EXPECT_EQ(piece->data(), text);
  ASSERT_TRUE(Ship(&server, LogOf(*id, assign.fence(), text.size() + 5, "after a gap")).ok());
  const auto after = log->Next<v1::TailLogsResponse>();
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(after->data(), "after a gap");
  EXPECT_EQ(after->dropped_bytes(), 5u);
  EXPECT_EQ(after->offset(), text.size() + 5);

  ASSERT_TRUE(worker.DoShards(assign).ok());
  worker.Exit(assign, 0);

  // Every event from the first to the last, without a hole in the global sequence.
  auto events = std::make_shared<Inbox>();
  v1::WatchEventsRequest watch;
  const auto watching = user->Open("/vlm.v1.JobService/WatchEvents", {.wait_for_ready = true}, events);
  watching->Send(watch.SerializeAsString());
  std::vector<std::string> kinds;
  uint64_t last = 0;
  while (kinds.empty() || kinds.back() != "job.succeeded") {
    const auto message = events->Next<v1::WatchEventsResponse>();
    ASSERT_TRUE(message.ok()) << message.status() << " after " << testing::PrintToString(kinds);
    if (!message->has_event()) continue;
    EXPECT_EQ(message->event().sequence(), last + 1);
    last = message->event().sequence();
    kinds.push_back(message->event().kind());
  }
  EXPECT_THAT(kinds, testing::IsSupersetOf({"coordinator.started", "worker.live", "job.submitted", "stage.active",
                                            "attempt.running", "shard.finished", "stage.succeeded"}));

  const v1::Job job = server.GetJob(*id);
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.stages(0).progress().done(), 3u);
  EXPECT_FALSE(job.stages(0).artifact_digest().empty());
  EXPECT_TRUE(PosixFileSystem()->Stat(job.stages(0).artifact_folder() + "/manifest.json").ok());
  // The attempt is over and its log is complete: following ends by itself.
  EXPECT_TRUE(absl::IsOutOfRange(log->Next().status()));

  const std::string scrape = telemetry::HttpGet(server.server()->metrics_address(), "/metrics");
  EXPECT_EQ(MetricValue(scrape, "vlm_jobs{state=\"succeeded\"}"), 1);
  EXPECT_EQ(MetricValue(before, "vlm_jobs{state=\"running\"}"), 1);
  for (const char* counter :
       {"vlm_decisions_total", "vlm_goodput_seconds_total", "vlm_step_commits_total", "vlm_log_bytes_total",
        "vlm_points_total", "vlm_submit_seconds_count", "vlm_store_commit_seconds_count{durability=\"synced\"}"}) {
    EXPECT_GE(MetricValue(before, counter), 0) << counter << " is missing";
    if (std::string(counter) == "vlm_submit_seconds_count") continue;  // the submit came before both scrapes
    EXPECT_GT(MetricValue(scrape, counter), MetricValue(before, counter)) << counter << " did not move";
  }
  EXPECT_THAT(scrape, testing::Not(HasSubstr("vlm_stage_steps_done{"))) << "series of an ended attempt are removed";
}

TEST(CoordinatorStageTest, EveryCoordinatorMetricIsThereWhileAJobRuns) {
  RunningServer server("metrics");
  ASSERT_TRUE(server.Start().ok());
  FakeWorker worker(&server, "node-a");
  ASSERT_TRUE(worker.Connect().ok());
  const absl::StatusOr<std::string> id = server.Submit(GenerateJob("metrics"), "r1");
  ASSERT_TRUE(id.ok()) << id.status();
  const auto assigned = worker.WaitFor(v1::SessionResponse::kAssign);
  ASSERT_TRUE(assigned.ok()) << assigned.status();
  worker.Ready(assigned->assign());
  v1::SessionRequest beat;
  beat.mutable_beat();
  worker.Send(std::move(beat));
  ASSERT_TRUE(worker.WaitFor(v1::SessionResponse::kBeat).ok());
  ASSERT_TRUE(worker.DoShards(assigned->assign(), 1).ok());
  v1::ShipTelemetryRequest points;
  points.mutable_metrics()->set_job_id(*id);
  points.mutable_metrics()->set_stage("generate");
  ASSERT_TRUE(Ship(&server, points).ok());
  const std::string scrape = telemetry::HttpGet(server.server()->metrics_address(), "/metrics");
  for (const telemetry::MetricInfo& metric : telemetry::MetricTable()) {
    const bool here = scrape.find("\n# TYPE " + std::string(metric.name) + " ") != std::string::npos;
    EXPECT_EQ(here, metric.home == telemetry::MetricHome::kCoordinator) << metric.name;
  }
  EXPECT_EQ(MetricValue(scrape, "vlm_heartbeats_total"), 1);
  EXPECT_EQ(MetricValue(scrape, "vlm_slots_taken"), 1);
  EXPECT_EQ(MetricValue(scrape, "vlm_stage_steps_done{job=\"" + *id + "\",stage=\"generate\"}"), 1);
}

TEST(CoordinatorStageTest, ACrashedRankIsRetriedAndCounted) {
  RunningServer server("crash");
  server.options().core.lost_wait = absl::ZeroDuration();
  ASSERT_TRUE(server.Start().ok());
  FakeWorker worker(&server, "node-a");
  ASSERT_TRUE(worker.Connect().ok());
  const absl::StatusOr<std::string> id = server.Submit(GenerateJob("crash"), "r1");
  ASSERT_TRUE(id.ok()) << id.status();
  const auto first = worker.WaitFor(v1::SessionResponse::kAssign);
  ASSERT_TRUE(first.ok()) << first.status();
  worker.Ready(first->assign());
  ASSERT_TRUE(worker.DoShards(first->assign(), 1).ok());
  worker.Exit(first->assign(), 70);
  const auto second = worker.WaitFor(v1::SessionResponse::kAssign);
  ASSERT_TRUE(second.ok()) << second.status();
  worker.Ready(second->assign());
  ASSERT_TRUE(worker.DoShards(second->assign()).ok()) << "one shard was kept, the other and the finish task are left";
  worker.Exit(second->assign(), 0);
  auto events = std::make_shared<Inbox>();
  v1::WatchEventsRequest watch;
  watch.set_job_id(*id);
  const auto user = server.ChannelAs("user");
  const auto watching = user->Open("/vlm.v1.JobService/WatchEvents", {.wait_for_ready = true}, events);
  watching->Send(watch.SerializeAsString());
  std::string kind;
  while (kind != "job.succeeded") {
    const auto message = events->Next<v1::WatchEventsResponse>();
    ASSERT_TRUE(message.ok()) << message.status();
    if (message->has_event()) kind = message->event().kind();
  }
}

TEST(CoordinatorStageTest, NodesAreListed) {
  RunningServer server("nodes");
  ASSERT_TRUE(server.Start().ok());
  FakeWorker worker(&server, "node-a");
  ASSERT_TRUE(worker.Connect().ok());
  const auto nodes = server.Call<v1::ListNodesResponse>("NodeService/ListNodes", v1::ListNodesRequest());
  ASSERT_TRUE(nodes.ok()) << nodes.status();
  ASSERT_EQ(nodes->nodes_size(), 1);
  EXPECT_EQ(nodes->nodes(0).node_id(), "node-a");
  EXPECT_EQ(nodes->nodes(0).state(), v1::NODE_STATE_LIVE);
  EXPECT_EQ(nodes->nodes(0).slots_free(), 1);
}

}  // namespace
}  // namespace vlm::coordinator
