#include "cli/logs.h"

#include <gmock/gmock.h>

#include <thread>

#include "tests/unit/cli/cli_fixture.h"

namespace vlm::cli {
namespace {

using testing::HasSubstr;

class LogsTest : public CliFixture {
 protected:
  void SetUp() override {
    v1::Job job;
    job.set_job_id("shapes-1");
    job.set_name("shapes");
    coordinator_.AddJob(job);
  }
  void SetStage(const std::string& name, v1::StageState state, uint64_t fence) {
    v1::Stage stage;
    stage.set_name(name);
    stage.set_kind(name);
    stage.set_state(state);
    stage.set_fence(fence);
    stage.set_reason("waits for pretrain");
    coordinator_.SetStage("shapes-1", stage);
  }
};

TEST_F(LogsTest, PrintsAWholeLogAndNothingElseToStandardOutput) {
  SetStage("pretrain", v1::STAGE_STATE_SUCCEEDED, 2);
  const std::string text = "a first line\nand a second one, longer than a piece\n\x01";
  coordinator_.SetLog("pretrain", 2, 1, text);
  EXPECT_EQ(Run({"logs", "shapes", "--rank", "1"}), 0);
  EXPECT_EQ(out(), text);
  EXPECT_EQ(err(), "==> pretrain, attempt 2, rank 1 <==\n");
}

TEST_F(LogsTest, ChoosesTheStageThatMattersMost) {
  SetStage("pretrain", v1::STAGE_STATE_SUCCEEDED, 1);
  SetStage("align", v1::STAGE_STATE_BLOCKED, 0);
  coordinator_.SetLog("pretrain", 1, 0, "pretrain's\n");
  coordinator_.SetLog("align", 2, 0, "align's\n");
  EXPECT_EQ(Run({"logs", "shapes"}), 0);
  EXPECT_EQ(out(), "pretrain's\n") << "the last that ran";
  SetStage("pretrain", v1::STAGE_STATE_FAILED, 1);
  SetStage("align", v1::STAGE_STATE_ACTIVE, 2);
  EXPECT_EQ(Run({"logs", "shapes"}), 0);
  EXPECT_EQ(out(), "align's\n") << "one that runs";
  SetStage("align", v1::STAGE_STATE_CANCELLED, 2);
  EXPECT_EQ(Run({"logs", "shapes"}), 0);
  EXPECT_EQ(out(), "pretrain's\n") << "one that failed";
}

TEST_F(LogsTest, SaysWhyThereIsNone) {
  SetStage("align", v1::STAGE_STATE_BLOCKED, 0);
  EXPECT_EQ(Run({"logs", "shapes", "--stage", "align"}), 9);
  EXPECT_THAT(err(), HasSubstr("the stage has written nothing, it is blocked (waits for pretrain): align"));
  EXPECT_EQ(Run({"logs", "shapes", "--stage", "algin"}), 3);
  EXPECT_THAT(err(), HasSubstr("it has align"));
  SetStage("align", v1::STAGE_STATE_ACTIVE, 1);
  EXPECT_EQ(Run({"logs", "shapes", "--rank", "7"}), 3);
}

TEST_F(LogsTest, FollowReadsWhatIsAddedAndTheNextAttemptUntilTheStageEnds) {
  SetStage("pretrain", v1::STAGE_STATE_ACTIVE, 1);
  coordinator_.SetLog("pretrain", 1, 0, "one\n");
  int code = -1;
  std::thread thread([&] { code = Run({"logs", "shapes", "-f"}); });
  EXPECT_TRUE(out_.WaitFor("one\n"));
  coordinator_.SetLog("pretrain", 1, 0, "one\ntwo\n");
  EXPECT_TRUE(out_.WaitFor("one\ntwo\n"));
  coordinator_.SetLog("pretrain", 2, 0, "again\n");
  SetStage("pretrain", v1::STAGE_STATE_SUCCEEDED, 2);
  thread.join();
  EXPECT_EQ(code, 0);
  EXPECT_EQ(out(), "one\ntwo\nagain\n");
  EXPECT_EQ(err(), "==> pretrain, attempt 1, rank 0 <==\n==> pretrain, attempt 2, rank 0 <==\n");
}

TEST_F(LogsTest, ARankThatWasSilentForLongIsFollowedOverABrokenStream) {
  JumpingClock clock;
  world_.clock = &clock;
  SetStage("pretrain", v1::STAGE_STATE_ACTIVE, 1);
  coordinator_.SetLog("pretrain", 1, 0, "one\n");
  int code = -1;
  std::thread thread([&] { code = Run({"logs", "shapes", "-f"}); });
  EXPECT_TRUE(out_.WaitFor("one\n"));
  clock.Jump(11);
  coordinator_.BreakTails(3);
  coordinator_.WaitForBrokenTails();
  coordinator_.SetLog("pretrain", 1, 0, "one\ntwo\n");
  EXPECT_TRUE(out_.WaitFor("one\ntwo\n"));
  SetStage("pretrain", v1::STAGE_STATE_SUCCEEDED, 1);
  thread.join();
  EXPECT_EQ(code, 0) << err();
}

TEST_F(LogsTest, CtrlCLeaves) {
  SetStage("pretrain", v1::STAGE_STATE_ACTIVE, 1);
  coordinator_.SetLog("pretrain", 1, 0, "one\n");
  int code = -1;
  std::thread thread([&] { code = Run({"logs", "shapes", "-f"}); });
  EXPECT_TRUE(out_.WaitFor("one\n"));
  interrupt_.Raise();
  thread.join();
  EXPECT_EQ(code, 130);
}

}  // namespace
}  // namespace vlm::cli
