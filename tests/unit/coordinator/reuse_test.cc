// What may come between the question whether an artifact can be reused and its answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/coordinator/service_harness.h"

namespace vlm::coordinator {
namespace {

class ReuseTest : public testing::Test {
 protected:
  void SetUp() override {
    service_.Connect(service_.Hello("a"));
    first_ = Submit();
    Make(first_, "made first");
  }
  std::string Submit(const std::string& artifacts = "") {
    spec::Job job = ServiceHarness::Job({ServiceHarness::Gang("train")});
    job.artifacts = artifacts;
    return service_.Submit(job, "request " + std::to_string(++requests_));
  }
  v1::Stage Stage(const std::string& id) { return service_.StageView(id, "train"); }
  // The stage's attempt finds its final step in place and publishes it with this digest.
  void Make(const std::string& id, const std::string& digest) {
    ASSERT_EQ(Stage(id).attempt_state(), v1::ATTEMPT_STATE_FENCING) << Stage(id).reason();
    service_.Open(Stage(id).stage_uid(), Stage(id).fence(), 1, /*final=*/true);
    ArtifactCommitted answer{Stage(id).stage_uid(), Stage(id).fence(), absl::OkStatus(), {}};
    answer.response.set_digest(digest);
    answer.response.set_folder("/artifacts/folder");
    answer.response.set_step(1);
    service_.Feed(answer);
    ASSERT_EQ(Stage(id).state(), v1::STAGE_STATE_SUCCEEDED);
  }
  // The questions asked since the last call, for stages of any job.
  std::vector<VerifyStep> Asked() {
    std::vector<VerifyStep> asked;
    for (const Effect& effect : service_.TakeEffects()) {
      if (const auto* verify = std::get_if<VerifyStep>(&effect)) asked.push_back(*verify);
    }
    return asked;
  }
  // The one question asked since.
  VerifyStep Question() {
    const std::vector<VerifyStep> asked = Asked();
    EXPECT_EQ(asked.size(), 1u);
    return asked.empty() ? VerifyStep() : asked.back();
  }
  void Answer(const VerifyStep& question, const absl::Status& status = absl::OkStatus(), bool damaged = false) {
    StepVerified answer{question.for_stage, question.request, status, {}};
    if (damaged) answer.response.add_damages()->set_file("llm.safetensors");
    service_.Feed(answer);
  }

  ServiceHarness service_;
  std::string first_;
  int requests_ = 0;
};

TEST_F(ReuseTest, AnArtifactThatWasReplacedMeanwhileIsNotTakenAndTheNewOneIsAskedFor) {
  const std::string waiting = Submit();
  const VerifyStep old = Question();
  EXPECT_EQ(old.request.stage_uid(), Stage(first_).stage_uid());
  const std::string maker = Submit();
  Answer(Question(), absl::OkStatus(), /*damaged=*/true);  // so that it makes the artifact anew
  Make(maker, "made again");
  service_.TakeEffects();
  Answer(old);
  EXPECT_EQ(Stage(waiting).state(), v1::STAGE_STATE_BLOCKED) << "nobody has read the files that count now";
  const VerifyStep again = Question();
  EXPECT_EQ(again.for_stage, Stage(waiting).stage_uid());
  EXPECT_EQ(again.request.stage_uid(), Stage(maker).stage_uid());
  Answer(again);
  EXPECT_EQ(Stage(waiting).state(), v1::STAGE_STATE_REUSED);
  EXPECT_EQ(Stage(waiting).artifact_digest(), "made again");
}

// The newest artifact of a key counts, and this one lies where the job may not read.
TEST_F(ReuseTest, AStageWhoseCandidateIsGoneRunsWhenTheAnswerComes) {
  const std::string waiting = Submit();
  const VerifyStep question = Question();
  Make(Submit("/elsewhere"), "made elsewhere");
  EXPECT_EQ(Stage(waiting).state(), v1::STAGE_STATE_BLOCKED);
  Answer(question);
  EXPECT_EQ(Stage(waiting).attempt_state(), v1::ATTEMPT_STATE_FENCING) << Stage(waiting).reason();
}

TEST_F(ReuseTest, AStageWhoseCandidateIsGoneRunsWhenNoAnswerComes) {
  const std::string waiting = Submit();
  Make(Submit("/elsewhere"), "made elsewhere");
  EXPECT_EQ(Stage(waiting).state(), v1::STAGE_STATE_BLOCKED);
  service_.Advance(2 * ServiceHarness::Options().call_overdue);
  EXPECT_NE(Stage(waiting).state(), v1::STAGE_STATE_BLOCKED) << Stage(waiting).reason();
}

TEST_F(ReuseTest, AnErrorThatMayPassIsAskedAgainAndOneThatDoesNotRunsTheStage) {
  const std::string waiting = Submit();
  Answer(Question(), absl::UnavailableError("away"));
  EXPECT_EQ(Stage(waiting).state(), v1::STAGE_STATE_BLOCKED);
  service_.Advance(absl::Seconds(1));
  const VerifyStep again = Question();
  Answer(again, absl::NotFoundError("no such step: 1"));
  EXPECT_EQ(Stage(waiting).attempt_state(), v1::ATTEMPT_STATE_FENCING) << Stage(waiting).reason();
  Answer(again);  // late, of a call that was made twice
  EXPECT_EQ(Stage(waiting).attempt_state(), v1::ATTEMPT_STATE_FENCING);
  Make(waiting, "made again");
}

TEST_F(ReuseTest, AnAnswerForAStageThatWasCancelledChangesNothing) {
  const std::string waiting = Submit();
  const VerifyStep question = Question();
  ASSERT_TRUE(service_.Cancel(waiting).ok());
  Answer(question);
  EXPECT_EQ(Stage(waiting).state(), v1::STAGE_STATE_CANCELLED);
}

}  // namespace
}  // namespace vlm::coordinator
