// Staying with a job: `submit --follow` and `wait`, through broken connections.
#include "cli/follow.h"

#include <gmock/gmock.h>

#include <thread>

#include "cli/job_watch.h"
#include "tests/unit/cli/cli_fixture.h"

namespace vlm::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

class FollowTest : public CliFixture {
 protected:
  // Runs the command on a thread of its own; Join() answers its exit code.
  void Start(std::vector<std::string> arguments) {
    thread_ = std::thread([this, arguments] { exit_code_ = Run(arguments); });
  }
  int Join() {
    thread_.join();
    return exit_code_;
  }
  void AddRunningJob() {
    v1::Job job;
    job.set_job_id("shapes-1");
    job.set_name("shapes");
    job.set_state(v1::JOB_STATE_RUNNING);
    coordinator_.AddJob(job);
    coordinator_.SetStage("shapes-1", Pretrain(v1::STAGE_STATE_ACTIVE, 1));
    coordinator_.Emit("shapes-1", "", "job.submitted");
  }
  static v1::Stage Pretrain(v1::StageState state, uint64_t done) {
    v1::Stage stage;
    stage.set_name("pretrain");
    stage.set_kind("pretrain");
    stage.set_state(state);
    stage.set_attempt_state(v1::ATTEMPT_STATE_RUNNING);
    stage.mutable_progress()->set_done(done);
    stage.mutable_progress()->set_total(40);
    return stage;
  }
  void Finish(v1::JobState state, v1::StageState stage) {
    coordinator_.SetStage("shapes-1", Pretrain(stage, 40));
    coordinator_.SetJobState("shapes-1", state);
    coordinator_.Emit("shapes-1", "", "job.ended");
  }

 private:
  std::thread thread_;
  int exit_code_ = -1;
};

TEST_F(FollowTest, AppendsLinesAndEndsWithTheJob) {
  Start({"submit", WriteFile("job.yaml", kJobYaml), "--follow"});
  coordinator_.WaitForWatch(1);
  v1::Stage stage = Pretrain(v1::STAGE_STATE_ACTIVE, 3);
  stage.mutable_progress()->set_loss(2.5);
  coordinator_.SetStage("job-1", stage);
  coordinator_.Emit("job-1", "pretrain", "stage.active");
  EXPECT_TRUE(out_.WaitFor("pretrain: active, step 3/40, loss 2.500\n"));
  coordinator_.SetStage("job-1", Pretrain(v1::STAGE_STATE_SUCCEEDED, 40));
  coordinator_.SetJobState("job-1", v1::JOB_STATE_SUCCEEDED);
  coordinator_.Emit("job-1", "", "job.succeeded");
  EXPECT_EQ(Join(), 0);
  EXPECT_THAT(out(), HasSubstr("pretrain: succeeded, step 40/40\n"));
  EXPECT_THAT(out(), HasSubstr("job job-1 succeeded"));
  EXPECT_THAT(out(), HasSubstr("vlmctl checkpoint list job-1"));
  EXPECT_THAT(out(), Not(HasSubstr("\x1b"))) << "no escape sequences where there is no terminal";
}

TEST_F(FollowTest, RedrawsOnATerminal) {
  interactive_ = true;
  Start({"submit", WriteFile("job.yaml", kJobYaml), "--follow"});
  coordinator_.WaitForWatch(1);
  coordinator_.SetStage("job-1", Pretrain(v1::STAGE_STATE_ACTIVE, 3));
  coordinator_.Emit("job-1", "pretrain", "stage.active");
  EXPECT_TRUE(out_.WaitFor("step 3/40"));
  v1::Progress progress;
  progress.set_done(20);
  progress.set_total(40);
  coordinator_.SendProgress("job-1", "pretrain", progress);
  EXPECT_TRUE(out_.WaitFor("[==========          ] step 20/40")) << "progress is shown without asking";
  coordinator_.SetJobState("job-1", v1::JOB_STATE_FAILED, "stage pretrain failed");
  coordinator_.Emit("job-1", "", "job.failed");
  EXPECT_EQ(Join(), 1);
  EXPECT_THAT(out(), HasSubstr("\x1b[2A\r"));
}

TEST_F(FollowTest, GoesOnFromItsCursorAfterABrokenConnection) {
  AddRunningJob();
  Start({"wait", "shapes"});
  coordinator_.WaitForWatch(1);
  coordinator_.BreakWatches();
  coordinator_.WaitForWatch(2);
  Finish(v1::JOB_STATE_SUCCEEDED, v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(Join(), 0);
  EXPECT_EQ(coordinator_.cursors()[0], "");
  EXPECT_EQ(coordinator_.cursors()[1], "1");
  EXPECT_EQ(out(), "job shapes-1 is succeeded\n");
}

TEST_F(FollowTest, SurvivesARestartOfTheCoordinator) {
  Start({"submit", WriteFile("job.yaml", kJobYaml), "--follow"});
  coordinator_.WaitForWatch(1);
  transport_.Stop();
  EXPECT_TRUE(out_.WaitFor("the coordinator does not answer; trying again\n"));
  transport_.Serve(coordinator_.Registry());
  EXPECT_TRUE(out_.WaitFor("the coordinator is back\n"));
  coordinator_.SetJobState("job-1", v1::JOB_STATE_CANCELLED);
  coordinator_.Emit("job-1", "", "job.cancelled");
  EXPECT_EQ(Join(), 6);
}

TEST_F(FollowTest, ACoordinatorThatTakesNoWatchersIsAskedInstead) {
  JumpingClock clock;
  world_.clock = &clock;
  AddRunningJob();
  coordinator_.RefuseWatches(true);
  Start({"wait", "shapes"});
  coordinator_.WaitForWatch(4);  // by then the job was looked at
  clock.Jump(11);
  coordinator_.WaitForWatch(5);
  Finish(v1::JOB_STATE_SUCCEEDED, v1::STAGE_STATE_SUCCEEDED);
  EXPECT_EQ(Join(), 0) << err();
}

TEST_F(FollowTest, CtrlCLeavesTheJobAlone) {
  Start({"submit", WriteFile("job.yaml", kJobYaml), "--follow"});
  coordinator_.WaitForWatch(1);
  EXPECT_TRUE(interrupt_.listened());
  interrupt_.Raise();
  EXPECT_EQ(Join(), 130);
  EXPECT_THAT(out(), HasSubstr("left; the job goes on. See it with `vlmctl get job-1`, stop it with `vlmctl cancel "
                               "job-1`"));
  EXPECT_TRUE(coordinator_.notes().empty()) << "nothing was cancelled";
  EXPECT_FALSE(interrupt_.listened());
}

TEST_F(FollowTest, WaitSaysHowItEnded) {
  AddRunningJob();
  EXPECT_EQ(Run({"wait", "shapes", "--timeout", "10ms"}), 10);
  EXPECT_EQ(out(), "job shapes-1 is running\n");
  Finish(v1::JOB_STATE_FAILED, v1::STAGE_STATE_FAILED);
  EXPECT_EQ(Run({"wait", "shapes", "-o", "json"}), 1);
  EXPECT_THAT(out(), HasSubstr("\"JOB_STATE_FAILED\""));
  EXPECT_EQ(Run({"wait", "nothing"}), 3);
}

TEST_F(FollowTest, AWatchOpensAgainFromItsCursor) {
  AddRunningJob();
  const std::unique_ptr<Service> service = NewService();
  JobWatch watch(service.get(), "shapes-1");
  EXPECT_EQ(watch.Next(absl::Seconds(10)).kind, WatchItem::Kind::kEvent);
  EXPECT_EQ(watch.Next(absl::Seconds(10)).kind, WatchItem::Kind::kHeartbeat);
  coordinator_.Emit("shapes-1", "", "job.x");
  EXPECT_EQ(watch.Next(absl::Seconds(10)).event.kind(), "job.x");
  coordinator_.BreakWatches();
  EXPECT_EQ(watch.Next(absl::Seconds(10)).kind, WatchItem::Kind::kAway);
  WatchItem item;
  while (item.kind != WatchItem::Kind::kHeartbeat) item = watch.Next(absl::Seconds(10));
  EXPECT_EQ(coordinator_.cursors().back(), "2");
}

TEST_F(FollowTest, AWatchOfAnotherStoreBeginsAgain) {
  AddRunningJob();
  coordinator_.SetCursorPrefix("old-");
  const std::unique_ptr<Service> service = NewService();
  JobWatch watch(service.get(), "shapes-1");
  EXPECT_EQ(watch.Next(absl::Seconds(10)).kind, WatchItem::Kind::kEvent);
  EXPECT_EQ(watch.Next(absl::Seconds(10)).kind, WatchItem::Kind::kHeartbeat);
  coordinator_.SetCursorPrefix("");
  coordinator_.BreakWatches();
  int events = 0;
  WatchItem item;
  while (item.kind != WatchItem::Kind::kHeartbeat) {
    item = watch.Next(absl::Seconds(10));
    if (item.kind == WatchItem::Kind::kEvent) ++events;
  }
  EXPECT_THAT(coordinator_.cursors(), testing::ElementsAre("", "old-1", ""));
  EXPECT_EQ(events, 1);
}

TEST_F(FollowTest, AWatchOfAJobThatIsGoneFailsForGood) {
  const std::unique_ptr<Service> service = NewService();
  JobWatch watch(service.get(), "nothing");
  const WatchItem item = watch.Next(absl::Seconds(10));
  EXPECT_EQ(item.kind, WatchItem::Kind::kFailed);
  EXPECT_EQ(item.status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(watch.Next(absl::Milliseconds(1)).kind, WatchItem::Kind::kNothing);
  EXPECT_EQ(coordinator_.cursors().size(), 1u) << "it is not asked again";
}

}  // namespace
}  // namespace vlm::cli
