#include "cli/checkpoint_verbs.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/unit/cli/cli_fixture.h"
#include "tests/unit/cli/model_step.h"

namespace vlm::cli {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class CheckpointVerbsTest : public CliFixture {
 protected:
  void SetUp() override {
    AddJob("shapes-1", v1::STAGE_STATE_SUCCEEDED, "uid-1", "");
    std::filesystem::create_directories(step_folder());
    v1::Step step = Step(400);
    coordinator_.AddStep(step);
    step = Step(500);
    step.set_final(true);
    step.add_holds("OUTPUT");
    for (const checkpoint::FileClaim& claim : WriteModelStep(step_folder())) {
      v1::StepFile* const file = step.add_files();
      file->set_name(claim.name);
      file->set_bytes(claim.bytes);
      file->set_digest(claim.digest);
    }
    coordinator_.AddStep(step);
  }
  void AddJob(const std::string& id, v1::StageState state, const std::string& uid, const std::string& artifact) {
    v1::Job job;
    job.set_job_id(id);
    v1::Stage* const stage = job.add_stages();
    stage->set_name("sft");
    stage->set_kind("sft");
    stage->set_state(state);
    stage->set_stage_uid(uid);
    stage->set_artifact_folder(artifact);
    coordinator_.AddJob(job);
  }
  v1::Step Step(uint64_t number) {
    v1::Step step;
    step.set_job_id("shapes-1");
    step.set_stage("sft");
    step.set_stage_uid("uid-1");
    step.set_step(number);
    step.set_fence(7);
    step.set_world(2);
    step.set_bytes(3 << 20);
    step.set_state(v1::STEP_STATE_COMPLETE);
    step.set_folder(step_folder());
    return step;
  }
  std::string step_folder() const { return folder_ + "/jobs/shapes-1/sft/step-00000500-f00000007"; }
};

TEST_F(CheckpointVerbsTest, ListsAndShows) {
  EXPECT_EQ(Run({"checkpoint", "list", "shapes-1"}), 0);
  EXPECT_THAT(out(),
              StartsWith("STAGE  STEP         ATTEMPT  STATE     SIZE     RANKS  COMMITTED  HOLDS   FOLDER\n"
                         "sft    400          7        complete  3.0 MiB  2      -          -       " +
                         step_folder() + "\nsft    500 (final)  7        complete  3.0 MiB  2      -          OUTPUT"));
  EXPECT_EQ(Run({"checkpoint", "show", "shapes-1", "sft"}), 0);
  EXPECT_THAT(out(), HasSubstr("step     500 (final)\n"));
  EXPECT_THAT(out(), HasSubstr("llm.safetensors"));
  EXPECT_EQ(Run({"checkpoint", "show", "shapes-1", "sft@400", "-o", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out())["step"], "400");
}

TEST_F(CheckpointVerbsTest, WhatIsNotThereIsExitCode3) {
  EXPECT_EQ(Run({"checkpoint", "show", "shapes-1", "sft@401"}), 3);
  EXPECT_THAT(err(), HasSubstr("`vlmctl checkpoint list shapes-1` shows them: sft@401"));
  EXPECT_EQ(Run({"checkpoint", "show", "shapes-1", "stf"}), 3);
  AddJob("shapes-2", v1::STAGE_STATE_QUEUED, "uid-2", "");
  EXPECT_EQ(Run({"checkpoint", "show", "shapes-2", "sft"}), 3);
  EXPECT_THAT(err(), HasSubstr("the stage has no complete checkpoint; it is queued: sft"));
}

TEST_F(CheckpointVerbsTest, AReusedStageShowsTheStepsOfItsMaker) {
  AddJob("shapes-2", v1::STAGE_STATE_REUSED, "uid-2", step_folder());
  EXPECT_EQ(Run({"checkpoint", "show", "shapes-2", "sft"}), 0);
  EXPECT_THAT(out(), HasSubstr("job      shapes-1\n"));
  EXPECT_EQ(Run({"checkpoint", "list", "shapes-2"}), 0);
  EXPECT_THAT(out(), HasSubstr("sft is reused from " + step_folder()));
}

TEST_F(CheckpointVerbsTest, VerifySaysWhatIsDamaged) {
  EXPECT_EQ(Run({"checkpoint", "verify", "shapes-1", "sft"}), 0);
  EXPECT_EQ(out(), "sft@500: 3.0 MiB read again, as committed\n");
  v1::VerifyStepResponse::Damage damage;
  damage.set_file("llm.safetensors");
  damage.set_chunk(1);
  damage.set_detail("other bytes");
  coordinator_.SetDamages({damage});
  EXPECT_EQ(Run({"checkpoint", "verify", "shapes-1", "sft"}), 7);
  EXPECT_EQ(out(), "damaged: " + step_folder() + "/llm.safetensors, chunk 1: other bytes\nsft@500: 1 damage\n");
  EXPECT_EQ(Run({"checkpoint", "verify", "shapes-1", "sft", "-o", "yaml"}), 7);
  EXPECT_THAT(out(), HasSubstr("file: \"llm.safetensors\""));
}

TEST_F(CheckpointVerbsTest, ExportMakesAFolderOnce) {
  EXPECT_EQ(Run({"checkpoint", "export", "shapes-1", "sft", "--to", folder_ + "/model"}), 0);
  EXPECT_THAT(out(), StartsWith("sft@500 exported: 5 files, 5.0 MiB in "));
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/model/config.json"));
  EXPECT_EQ(Run({"checkpoint", "export", "shapes-1", "sft", "--to", folder_ + "/model"}), 9);
  EXPECT_THAT(err(), HasSubstr("the folder exists already"));
  EXPECT_EQ(Run({"checkpoint", "export", "shapes-1", "sft@400", "--to", folder_ + "/other"}), 9);
  EXPECT_THAT(err(), HasSubstr("sft@400: the checkpoint holds no model"));
  std::filesystem::remove(step_folder() + "/llm.safetensors");
  EXPECT_EQ(Run({"checkpoint", "export", "shapes-1", "sft", "--to", folder_ + "/other"}), 7);
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/other"));
}

TEST_F(CheckpointVerbsTest, OnlyACompleteStepIsExported) {
  v1::Step step = Step(600);
  step.set_state(v1::STEP_STATE_DAMAGED);
  coordinator_.AddStep(step);
  EXPECT_EQ(Run({"checkpoint", "export", "shapes-1", "sft@600", "--to", folder_ + "/model"}), 9);
  EXPECT_THAT(err(), HasSubstr("this one is damaged: sft@600"));
}

}  // namespace
}  // namespace vlm::cli
