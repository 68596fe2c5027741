#include "cli/command_line.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "tests/unit/cli/cli_fixture.h"

namespace vlm::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

using CommandLineTest = CliFixture;

TEST_F(CommandLineTest, HelpGoesToStandardOutputWithTheExitCodes) {
  EXPECT_EQ(Run({"--help"}), 0);
  EXPECT_THAT(out(), HasSubstr("submit"));
  EXPECT_THAT(out(), HasSubstr(ExitCodesHelp()));
  EXPECT_EQ(err(), "");
  EXPECT_EQ(Run({"checkpoint", "export", "--help"}), 0);
  EXPECT_THAT(out(), HasSubstr("--to FOLDER REQUIRED"));
  EXPECT_THAT(out(), HasSubstr("also takes --state-dir"));
  EXPECT_THAT(out(), Not(HasSubstr("Exit codes")));
}

TEST_F(CommandLineTest, WrongUseIsExitCode2WithAHint) {
  struct Case {
    std::vector<std::string> arguments;
    const char* message;
  };
  const std::vector<Case> cases = {
      {{}, "subcommand is required"},
      {{"lst"}, "did you mean `vlmctl list`?"},
      {{"submit"}, "FILE is required"},
      {{"submit", "a.yaml", "--folow"}, "--folow"},
      {{"submit", "a.yaml", "--follow", "-q"}, "excludes"},
      {{"submit", "a.yaml", "--follow", "--validate-only"}, "excludes"},
      {{"submit", "a.yaml", "--follow", "-o", "json"}, "--follow is for people"},
      {{"submit", "a.yaml", "-q", "-o", "json"}, "exclude each other"},
      {{"get"}, "JOB is required"},
      {{"get"}, "`vlmctl get --help` lists"},
      {{"-o", "json", "checkpoint", "lst"}, "did you mean `vlmctl checkpoint list`?"},
      {{"checkpoint", "zzzzzz"}, "no such command: zzzzzz"},
      {{"get", "a", "b"}, "b"},
      {{"list", "-o", "xml"}, "xml"},
      {{"wait", "a", "--timeout", "soon"}, "expected a duration like 90s or 1h30m, got soon"},
      {{"wait", "a", "--timeout", "-5s"}, "expected a duration"},
      {{"logs", "a", "--rank", "-1"}, "--rank"},
      {{"logs", "a", "-o", "json"}, "do not apply to logs"},
      {{"render", "a.yaml", "-o", "yaml"}, "do not apply to render"},
      {{"checkpoint"}, "subcommand is required"},
      {{"checkpoint", "export", "a", "sft"}, "--to is required"},
      {{"checkpoint", "show", "a", "sft@x"}, "expected STAGE or STAGE@STEP with a step from 1, got sft@x"},
      {{"chat", "--image", "a.png", "--prompt", "b"}, "which model? give --model FOLDER or --job JOB"},
      {{"chat", "--model", "m", "--job", "j", "--image", "a.png", "--prompt", "b"}, "excludes"},
      {{"chat", "--model", "m", "--stage", "s", "--image", "a.png", "--prompt", "b"}, "requires"},
  };
  for (const Case& wrong : cases) {
    SCOPED_TRACE(testing::PrintToString(wrong.arguments));
    EXPECT_EQ(Run(wrong.arguments), 2);
    EXPECT_THAT(err(), HasSubstr(wrong.message));
    EXPECT_EQ(out(), "");
  }
}

TEST_F(CommandLineTest, OptionsMayStandBehindTheCommand) {
  EXPECT_EQ(Run({"list", "-o", "json"}), 0);
  EXPECT_THAT(out(), HasSubstr("\"jobs\": []"));
  EXPECT_EQ(Run({"-o", "yaml", "node", "list"}), 0);
  EXPECT_EQ(out(), "nodes: []\n");
}

TEST_F(CommandLineTest, VersionNeedsNoCoordinator) {
  with_state_dir_ = false;
  EXPECT_EQ(Run({"version"}), 0);
  EXPECT_THAT(out(), testing::StartsWith("vlmctl "));
}

TEST_F(CommandLineTest, WhereTheCoordinatorIsMustBeSaid) {
  with_state_dir_ = false;
  EXPECT_EQ(Run({"list"}), 2);
  EXPECT_THAT(err(), HasSubstr("--state-dir FOLDER, --coordinator ADDRESS, or set VLM_COORDINATOR"));
  EXPECT_EQ(Run({"list", "--coordinator", "127.0.0.1:7001"}), 2);
  EXPECT_THAT(err(), HasSubstr("which token?"));
  EXPECT_EQ(Run({"list", "--coordinator", "192.168.0.4:7001"}), 2);
  EXPECT_THAT(err(), HasSubstr("only loopback addresses"));
  EXPECT_EQ(Run({"list", "--coordinator", "127.0.0.1:7001", "--token-file", folder_ + "/none"}), 2);
  EXPECT_THAT(err(), HasSubstr("the token file does not exist: " + folder_ + "/none"));
  EXPECT_EQ(Run({"list", "--state-dir", folder_}), 5) << "no coordinator.json: it has not started";
  WriteFile("coordinator.json", "[1]");
  EXPECT_EQ(Run({"list", "--state-dir", folder_}), 2);
}

TEST_F(CommandLineTest, TheEnvironmentFillsInWhatIsNotSaid) {
  with_state_dir_ = false;
  world_.environment_coordinator = "127.0.0.1:7009";
  world_.environment_token_file = folder_ + "/state/user.token";
  std::vector<Endpoint> connected;
  const Service::Connect connect = world_.connect;
  world_.connect = [&](const Endpoint& endpoint) {
    connected.push_back(endpoint);
    return connect(endpoint);
  };
  EXPECT_EQ(Run({"list"}), 0);
  EXPECT_EQ(Run({"list", "--state-dir", folder_ + "/state"}), 0);
  EXPECT_EQ(Run({"list", "--coordinator", "127.0.0.1:7010"}), 0);
  ASSERT_EQ(connected.size(), 3u);
  EXPECT_EQ(connected[0].address, "127.0.0.1:7009");
  EXPECT_EQ(connected[1].address, "127.0.0.1:7001") << "the state folder says more than the environment";
  EXPECT_EQ(connected[2].address, "127.0.0.1:7010");
}

TEST_F(CommandLineTest, ATokenOthersMayReadIsRefused) {
  ASSERT_EQ(chmod((folder_ + "/state/user.token").c_str(), 0644), 0);
  EXPECT_EQ(Run({"list"}), 8);
  EXPECT_THAT(err(), HasSubstr("user.token"));
}

TEST_F(CommandLineTest, ExplainAndRenderNeedNoCoordinator) {
  with_state_dir_ = false;
  EXPECT_EQ(Run({"explain", "spec.stages.train.lr"}), 0);
  EXPECT_THAT(out(), HasSubstr("learning rate"));
  EXPECT_EQ(Run({"explain", "spec.stags"}), 3);
  EXPECT_THAT(err(), HasSubstr("did you mean spec.stages?"));
  const std::string file = WriteFile("job.yaml", kJobYaml);
  EXPECT_EQ(Run({"render", file, "--set", "spec.seed=11"}), 0);
  EXPECT_THAT(out(), HasSubstr("seed: 11  # from --set"));
  EXPECT_THAT(out(), HasSubstr("name: small  # from " + file + ":3"));
}

TEST_F(CommandLineTest, ChatRunsTheTrainerBesideVlmctlAndPassesItsExitCode) {
  with_state_dir_ = false;
  EXPECT_EQ(Run({"chat", "--model", "m", "--image", "a.png", "--prompt", "what?"}), 3);
  EXPECT_THAT(err(), HasSubstr("vlm-trainer must be beside vlmctl; there is no " + folder_ + "/vlm-trainer"));
  EXPECT_THAT(programs_, IsEmpty());
  WriteFile("vlm-trainer", "");
  program_exit_code_ = 66;
  EXPECT_EQ(Run({"chat", "--model", "m", "--image", "a.png", "--prompt", "what?", "--max-tokens", "8"}), 66);
  EXPECT_THAT(programs_, ElementsAre(ElementsAre(folder_ + "/vlm-trainer", "chat", "--model", "m", "--image", "a.png",
                                                 "--prompt", "what?", "--max-tokens", "8")));
}

TEST_F(CommandLineTest, ModelShowHandsTheJobFileToTheTrainer) {
  WriteFile("vlm-trainer", "");
  program_exit_code_ = 64;
  EXPECT_EQ(Run({"model", "show", "job.yaml", "--stage", "sft", "--ranks", "4", "--set", "spec.seed=8", "--set",
                 "spec.ranks.max=4"}),
            64);
  EXPECT_THAT(programs_, ElementsAre(ElementsAre(folder_ + "/vlm-trainer", "model", "job.yaml", "--stage", "sft",
                                                 "--ranks", "4", "--set", "spec.seed=8", "--set", "spec.ranks.max=4")));
}

TEST_F(CommandLineTest, ChatFindsTheModelOfAJob) {
  WriteFile("vlm-trainer", "");
  v1::Job job;
  job.set_job_id("job-1");
  for (const char* const kind : {"generate", "align", "sft"}) {
    v1::Stage* const stage = job.add_stages();
    stage->set_name(kind);
    stage->set_kind(kind);
    stage->set_stage_uid(kind);
    if (std::string(kind) != "sft") stage->set_artifact_folder(std::string("/artifacts/") + kind);
  }
  coordinator_.AddJob(job);
  v1::Step step;
  step.set_stage_uid("sft");
  step.set_step(500);
  step.set_state(v1::STEP_STATE_COMPLETE);
  step.set_folder("/artifacts/sft/step-500");
  coordinator_.AddStep(step);
  EXPECT_EQ(Run({"chat", "--job", "job-1", "--image", "a.png", "--prompt", "q"}), 0);
  EXPECT_EQ(programs_.back()[3], "/artifacts/align") << "the last that has finished";
  EXPECT_EQ(Run({"chat", "--job", "job-1", "--stage", "sft", "--image", "a.png", "--prompt", "q"}), 0);
  EXPECT_EQ(programs_.back()[3], "/artifacts/sft/step-500") << "the newest step of one that still runs";
  EXPECT_EQ(Run({"chat", "--job", "job-1", "--stage", "generate", "--image", "a.png", "--prompt", "q"}), 2);
  EXPECT_EQ(Run({"chat", "--job", "job-1", "--stage", "nothing", "--image", "a.png", "--prompt", "q"}), 3);
  EXPECT_THAT(err(), HasSubstr("it has generate, align, sft"));
}

}  // namespace
}  // namespace vlm::cli
