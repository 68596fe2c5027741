#include "cli/job_verbs.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "rpc/bad_request.h"
#include "rpc/retry.h"
#include "tests/unit/cli/cli_fixture.h"

namespace vlm::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class JobVerbsTest : public CliFixture {
 protected:
  v1::Job AddJob(const std::string& id, const std::string& name, v1::JobState state) {
    v1::Job job;
    job.set_job_id(id);
    job.set_name(name);
    job.set_state(state);
    coordinator_.AddJob(job);
    return job;
  }
};

TEST_F(JobVerbsTest, SubmitSendsTheComposedFile) {
  const std::string file = WriteFile("job.yaml", kJobYaml);
  EXPECT_EQ(Run({"submit", file, "--set", "spec.seed=11"}), 0);
  EXPECT_THAT(out(), StartsWith("job job-1 submitted\n"));
  ASSERT_EQ(coordinator_.submits(), 1);
  const v1::SubmitJobRequest request = coordinator_.submitted()[0];
  EXPECT_EQ(request.request_id(), "request-1");
  EXPECT_THAT(request.job_yaml(), HasSubstr("seed: 11"));
  EXPECT_THAT(request.job_yaml(), HasSubstr("# default"));
}

TEST_F(JobVerbsTest, QuietPrintsTheIdAlone) {
  EXPECT_EQ(Run({"submit", WriteFile("job.yaml", kJobYaml), "-q"}), 0);
  EXPECT_EQ(out(), "job-1\n");
}

TEST_F(JobVerbsTest, ALostAnswerIsAskedForAgainWithTheSameRequest) {
  coordinator_.LoseSubmitAnswers(3);
  EXPECT_EQ(Run({"submit", WriteFile("job.yaml", kJobYaml), "-q"}), 0);
  EXPECT_EQ(out(), "job-1\n");
  EXPECT_EQ(coordinator_.submits(), 4);
  for (const v1::SubmitJobRequest& request : coordinator_.submitted()) EXPECT_EQ(request.request_id(), "request-1");
  EXPECT_EQ(coordinator_.jobs_stored(), 1u);
  EXPECT_THAT(err(), HasSubstr("trying again"));
}

TEST_F(JobVerbsTest, AGivenRequestIdIsOneJobHoweverOftenItIsSubmitted) {
  const std::string file = WriteFile("job.yaml", kJobYaml);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Run({"submit", file, "-q", "--request-id", "nightly-7"}), 0);
    EXPECT_EQ(out(), "job-1\n");
  }
  for (const v1::SubmitJobRequest& request : coordinator_.submitted()) EXPECT_EQ(request.request_id(), "nightly-7");
  EXPECT_EQ(Run({"submit", file, "-q", "--request-id", "nightly-7", "--set", "spec.seed=11"}), 9);
  EXPECT_EQ(coordinator_.jobs_stored(), 1u);
}

TEST_F(JobVerbsTest, ARequestIdThatNoCoordinatorTakesIsRefusedHere) {
  const std::string file = WriteFile("job.yaml", kJobYaml);
  EXPECT_EQ(Run({"submit", file, "--request-id", ""}), 2);
  EXPECT_THAT(err(), HasSubstr("expected 1 to 128 bytes, got 0"));
  EXPECT_EQ(Run({"submit", file, "--request-id", std::string(129, 'x')}), 2);
  EXPECT_THAT(err(), HasSubstr("expected 1 to 128 bytes, got 129"));
  EXPECT_EQ(Run({"submit", file, "--request-id", "nightly-7", "--validate-only"}), 2);
  EXPECT_EQ(coordinator_.submits(), 0);
}

TEST_F(JobVerbsTest, ARefusalIsShownAtOnceUnlessItNamesADelay) {
  const std::string file = WriteFile("job.yaml", kJobYaml);
  coordinator_.RefuseSubmits(absl::ResourceExhaustedError("no new jobs while the coordinator's disk is nearly full"));
  EXPECT_NE(Run({"submit", file, "-q"}), 0);
  EXPECT_EQ(coordinator_.submits(), 1);
  EXPECT_THAT(err(), HasSubstr("no new jobs while the coordinator's disk is nearly full"));
  coordinator_.RefuseSubmits(
      rpc::WithRetryDelay(absl::ResourceExhaustedError("too many calls wait"), absl::Milliseconds(1)));
  executor_->PostAfter(absl::Milliseconds(120), [this] { coordinator_.RefuseSubmits(absl::OkStatus()); });
  EXPECT_EQ(Run({"submit", file, "-q"}), 0) << err();
  EXPECT_EQ(coordinator_.jobs_stored(), 1u);
}

TEST_F(JobVerbsTest, SubmitWaitsForACoordinatorThatIsAway) {
  transport_.Stop();
  executor_->PostAfter(absl::Milliseconds(120), [this] { transport_.Serve(coordinator_.Registry()); });
  EXPECT_EQ(Run({"submit", WriteFile("job.yaml", kJobYaml), "-q"}), 0);
  EXPECT_EQ(coordinator_.jobs_stored(), 1u);
}

TEST_F(JobVerbsTest, SubmitFindsACoordinatorThatCameBackUnderAnotherPort) {
  const Service::Connect connect = world_.connect;
  int refused = 0;
  world_.connect = [&](const Endpoint& endpoint) {
    if (endpoint.address != "127.0.0.1:7001") return connect(endpoint);
    ++refused;
    WriteFile("state/coordinator.json", R"({"address": "127.0.0.1:7003", "metrics_address": ""})");
    rpc::MemoryTransport dead(executor_.get());
    return absl::StatusOr<std::unique_ptr<rpc::Channel>>(dead.Connect());
  };
  EXPECT_EQ(Run({"submit", WriteFile("job.yaml", kJobYaml), "-q"}), 0);
  EXPECT_EQ(refused, 1) << err();
  EXPECT_EQ(coordinator_.jobs_stored(), 1u);
}

TEST_F(JobVerbsTest, CtrlCEndsTheWaitForACoordinator) {
  transport_.Stop();
  interrupt_.Raise();
  EXPECT_EQ(Run({"submit", WriteFile("job.yaml", kJobYaml), "-q"}), 130);
}

TEST_F(JobVerbsTest, AnInvalidFileIsShownLikeACompilerDoesAndNeverSent) {
  const std::string file = WriteFile("job.yaml", std::string(kJobYaml) + "  sedd: 3\n  seed: many\n");
  EXPECT_EQ(Run({"submit", file}), 4);
  EXPECT_THAT(err(), HasSubstr(file + ":10:3: spec: unknown key: 'sedd'; did you mean 'seed'?"));
  EXPECT_THAT(err(), HasSubstr(file + ":11:9: spec.seed: "));
  EXPECT_THAT(err(), HasSubstr("2 errors; nothing was submitted: " + file));
  EXPECT_EQ(coordinator_.submits(), 0);
  EXPECT_EQ(Run({"submit", folder_ + "/none.yaml"}), 4);
  EXPECT_THAT(err(), HasSubstr("cannot read the file"));
}

TEST_F(JobVerbsTest, WhatTheCoordinatorRefusesIsAnInvalidFileToo) {
  coordinator_.RefuseSubmits(absl::InvalidArgumentError("artifacts is outside the allowed roots: /tmp/x"));
  EXPECT_EQ(Run({"submit", WriteFile("job.yaml", kJobYaml)}), 4);
  EXPECT_THAT(err(), HasSubstr("the coordinator refuses the job: artifacts is outside the allowed roots: /tmp/x"));
  coordinator_.RefuseSubmits(rpc::WithViolations(
      absl::InvalidArgumentError("two errors"),
      {{"spec.seed", "line 3, column 9: not a number: 'x'"}, {"spec.ranks", "line 4, column 1: min is above max: 3"}}));
  EXPECT_EQ(Run({"submit", WriteFile("job.yaml", kJobYaml)}), 4);
  EXPECT_THAT(err(), HasSubstr("refuses the job: spec.seed: line 3, column 9: not a number: 'x'\n"));
  EXPECT_THAT(err(), HasSubstr("refuses the job: spec.ranks: line 4, column 1: min is above max: 3\n"));
  coordinator_.RefuseSubmits(absl::PermissionDeniedError("no such role"));
  EXPECT_EQ(Run({"submit", WriteFile("job.yaml", kJobYaml)}), 8);
}

TEST_F(JobVerbsTest, AWrongAddressIsNotTheJobFilesFault) {
  EXPECT_EQ(Run({"submit", WriteFile("job.yaml", kJobYaml), "--coordinator", "10.0.0.1:80"}), 2);
  EXPECT_THAT(err(), HasSubstr("only loopback addresses"));
}

TEST_F(JobVerbsTest, ValidateOnlyStoresNothing) {
  const std::string file = WriteFile("job.yaml", kJobYaml);
  EXPECT_EQ(Run({"submit", file, "--validate-only"}), 0);
  EXPECT_EQ(out(), file + ": valid; nothing was stored\n");
  EXPECT_TRUE(coordinator_.submitted()[0].validate_only());
  EXPECT_EQ(coordinator_.jobs_stored(), 0u);
}

TEST_F(JobVerbsTest, ListReadsEveryPage) {
  EXPECT_EQ(Run({"list"}), 0);
  EXPECT_THAT(out(), StartsWith("no jobs"));
  for (int i = 1; i <= 5; ++i) AddJob("job-" + std::to_string(i), "name", v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Run({"list"}), 0);
  EXPECT_THAT(out(), StartsWith("JOB    NAME  STATE    SUBMITTED  TIME  REASON\n"
                                "job-5  name  running  -          -     -\n"));
  EXPECT_THAT(out(), HasSubstr("job-1 "));
  EXPECT_EQ(coordinator_.pages(), 1 + 3);
  EXPECT_EQ(Run({"list", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out())["jobs"].size(), 5u);
}

TEST_F(JobVerbsTest, AJobIsFoundByIdOrByANameThatIsItsOwn) {
  AddJob("shapes-1", "shapes", v1::JOB_STATE_SUCCEEDED);
  AddJob("other-1", "other", v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Run({"get", "shapes-1"}), 0);
  EXPECT_THAT(out(), HasSubstr("job    shapes-1\n"));
  EXPECT_EQ(Run({"get", "other"}), 0);
  EXPECT_THAT(out(), HasSubstr("other-1"));
  EXPECT_EQ(Run({"get", "nothing"}), 3);
  EXPECT_THAT(err(), HasSubstr("no such job; `vlmctl list` shows them: nothing"));
  AddJob("shapes-2", "shapes", v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Run({"get", "shapes"}), 2);
  EXPECT_THAT(err(), HasSubstr("newest first): shapes\n  shapes-2\n  shapes-1"));
}

TEST_F(JobVerbsTest, GetShowsStagesAndWhatToDo) {
  AddJob("shapes-1", "shapes", v1::JOB_STATE_RUNNING);
  coordinator_.SetJobState("shapes-1", v1::JOB_STATE_RUNNING, "stage sft: waits for a worker");
  v1::Stage stage;
  stage.set_name("sft");
  stage.set_kind("sft");
  stage.set_state(v1::STAGE_STATE_QUEUED);
  stage.set_reason("2 slots wanted, 1 free");
  stage.mutable_progress()->set_total(40);
  stage.mutable_progress()->set_done(10);
  coordinator_.SetStage("shapes-1", stage);
  EXPECT_EQ(Run({"get", "shapes-1"}), 0);
  EXPECT_EQ(out(), R"(job     shapes-1
name    shapes
state   running
reason  stage sft: waits for a worker

STAGE  KIND  STATE   DONE        LOSS  RANKS  RESTARTS  TIME  LEFT  REASON
sft    sft   queued  step 10/40  -     -      -         -     -     2 slots wanted, 1 free
)");
}

TEST_F(JobVerbsTest, DescribeShowsPlacementsAndTimeline) {
  AddJob("shapes-1", "shapes", v1::JOB_STATE_FAILED);
  v1::Stage stage;
  stage.set_name("sft");
  stage.set_kind("sft");
  stage.set_state(v1::STAGE_STATE_FAILED);
  stage.set_reason("crash on rank 1");
  stage.set_fence(3);
  stage.set_world(2);
  stage.set_attempt_state(v1::ATTEMPT_STATE_ENDED);
  stage.set_stage_uid(std::string("\x01\xff", 2));
  stage.add_needs("align");
  for (int rank = 0; rank < 2; ++rank) {
    v1::RankPlacement* const placement = stage.add_ranks();
    placement->set_rank(rank);
    placement->set_node_id("node-a");
    placement->set_phase("exited");
    placement->set_exit_code(rank == 1 ? 70 : 69);
    placement->set_failure(rank == 1 ? v1::FAILURE_CLASS_CRASH : v1::FAILURE_CLASS_PEER_LOST);
  }
  coordinator_.SetStage("shapes-1", stage);
  coordinator_.Emit("shapes-1", "", "job.submitted", "by user");
  coordinator_.Emit("shapes-1", "sft", "attempt.running", "2 ranks");
  EXPECT_EQ(Run({"describe", "shapes"}), 0);
  EXPECT_THAT(out(), HasSubstr(R"(stage sft (sft)
  state    failed: crash on rank 1
  needs    align
  uid      01ff
  attempt  3, ended, 2 ranks
    RANK  NODE    PHASE   EXIT  FAILURE    MESSAGE
    0     node-a  exited  69    peer_lost  -
    1     node-a  exited  70    crash      -
)"));
  EXPECT_THAT(out(), HasSubstr(R"(timeline
TIME                 STAGE  ATTEMPT  EVENT            REASON
2023-11-14 22:13:20  -      -        job.submitted    by user
2023-11-14 22:13:21  sft    -        attempt.running  2 ranks
)"));
  EXPECT_EQ(Run({"describe", "shapes", "-o", "json"}), 0);
  const nlohmann::json json = nlohmann::json::parse(out());
  EXPECT_EQ(json["job"]["job_id"], "shapes-1");
  EXPECT_EQ(json["events"].size(), 2u);
}

TEST_F(JobVerbsTest, DescribeReadsALongTimelineAcrossBrokenStreams) {
  AddJob("shapes-1", "shapes", v1::JOB_STATE_FAILED);
  constexpr size_t kEvents = 1500;
  for (size_t i = 0; i < kEvents; ++i) coordinator_.Emit("shapes-1", "", "event-" + std::to_string(i));
  coordinator_.BreakWatchesAfter(400);
  EXPECT_EQ(Run({"describe", "shapes", "-o", "json"}), 0) << err();
  const nlohmann::json events = nlohmann::json::parse(out())["events"];
  ASSERT_EQ(events.size(), kEvents);
  for (size_t i = 0; i < kEvents; ++i) EXPECT_EQ(events[i]["kind"], "event-" + std::to_string(i));
}

TEST_F(JobVerbsTest, DescribeDoesNotTakeAPauseForTheEnd) {
  AddJob("shapes-1", "shapes", v1::JOB_STATE_FAILED);
  coordinator_.Emit("shapes-1", "", "job.submitted");
  coordinator_.HoldHeartbeats();
  int code = -1;
  std::thread describe([&] { code = Run({"describe", "shapes", "-o", "json"}); });
  coordinator_.WaitForWatch(1);
  interrupt_.WaitFor(absl::Seconds(1));  // a slow disk
  coordinator_.Emit("shapes-1", "", "job.failed");
  coordinator_.SendHeartbeat();
  describe.join();
  EXPECT_EQ(code, 0) << err();
  EXPECT_EQ(nlohmann::json::parse(out())["events"].size(), 2u);
}

TEST_F(JobVerbsTest, ARetryWhoseAnswerIsLostIsRepeatedAsTheSameRequest) {
  AddJob("shapes-1", "shapes", v1::JOB_STATE_FAILED);
  coordinator_.LoseRetryAnswers(2);
  EXPECT_EQ(Run({"retry", "shapes", "--note", "disk is back"}), 0) << err();
  EXPECT_THAT(coordinator_.retries(), ElementsAre("request-1", "request-1", "request-1"));
  EXPECT_THAT(coordinator_.notes(), ElementsAre("disk is back"));
}

TEST_F(JobVerbsTest, CancelAndRetrySayWhatBecame) {
  AddJob("shapes-1", "shapes", v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Run({"retry", "shapes"}), 9);
  EXPECT_THAT(err(), HasSubstr("only a failed job can be retried"));
  EXPECT_EQ(Run({"cancel", "shapes", "--note", "wrong data"}), 0);
  EXPECT_EQ(out(), "job shapes-1 is cancelling; its ranks are being stopped\n");
  EXPECT_THAT(coordinator_.notes(), ElementsAre("wrong data"));
  coordinator_.SetJobState("shapes-1", v1::JOB_STATE_FAILED);
  EXPECT_EQ(Run({"retry", "shapes-1", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out())["state"], "JOB_STATE_PENDING");
}

TEST_F(JobVerbsTest, AnUnreachableCoordinatorIsExitCode5) {
  transport_.Stop();
  EXPECT_EQ(Run({"get", "shapes"}), 5);
  EXPECT_THAT(err(), HasSubstr("the coordinator at 127.0.0.1:7001 does not answer"));
}

TEST_F(JobVerbsTest, NodesAreListed) {
  EXPECT_EQ(Run({"node", "list"}), 0);
  EXPECT_THAT(out(), StartsWith("no workers"));
  v1::Node node;
  node.set_node_id("node-a");
  node.set_hostname("host");
  node.set_state(v1::NODE_STATE_LIVE);
  node.add_devices()->set_kind(v1::DEVICE_KIND_CPU_SLOT);
  node.set_slots_free(1);
  node.set_disk_free_bytes(3ull << 30);
  coordinator_.AddNode(node);
  EXPECT_EQ(Run({"node", "list"}), 0);
  EXPECT_EQ(out(),
            "NODE    HOST  STATE  DEVICES     FREE  DISK FREE  LAST BEAT  BUILD  ATTEMPTS\n"
            "node-a  host  live   1 cpu_slot  1     3.0 GiB    -          -      -\n");
}

}  // namespace
}  // namespace vlm::cli
