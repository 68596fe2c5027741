// Units, tables, the terminal, JSON and YAML.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_join.h"
#include "cli/exit_code.h"
#include "cli/follow_view.h"
#include "cli/human_units.h"
#include "cli/job_views.h"
#include "cli/message_text.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "vlm/v1/job.pb.h"

namespace vlm::cli {
namespace {

TEST(HumanUnitsTest, DurationsKeepTwoUnits) {
  EXPECT_EQ(HumanDuration(absl::ZeroDuration()), "0.0 s");
  EXPECT_EQ(HumanDuration(absl::Seconds(-5)), "0.0 s");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(5240)), "5.2 s");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(9949)), "9.9 s");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(9950)), "10 s");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(59400)), "59 s");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(59600)), "1m 00s");
  EXPECT_EQ(HumanDuration(absl::Seconds(80)), "1m 20s");
  EXPECT_EQ(HumanDuration(absl::Seconds(3599)), "59m 59s");
  EXPECT_EQ(HumanDuration(absl::Minutes(125)), "2h 05m");
  EXPECT_EQ(HumanDuration(absl::Hours(76)), "3d 04h");
  EXPECT_EQ(HumanDuration(absl::InfiniteDuration()), "-");
}

TEST(HumanUnitsTest, AgesCountFromNow) {
  const absl::Time now = absl::FromUnixSeconds(1000);
  EXPECT_EQ(HumanAgo(absl::FromUnixSeconds(920), now), "1m 20s ago");
  EXPECT_EQ(HumanAgo(absl::FromUnixSeconds(1010), now), "0.0 s ago");
  EXPECT_EQ(HumanAgo(absl::InfinitePast(), now), "-");
}

TEST(HumanUnitsTest, BytesRatesAndLosses) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(HumanBytes(UINT64_MAX), "16.0 EiB");
  EXPECT_EQ(HumanRate(0.5), "0.50");
  EXPECT_EQ(HumanRate(41.26), "41.3");
  EXPECT_EQ(HumanRate(999.4), "999");
  EXPECT_EQ(HumanRate(12'345), "12.3k");
  EXPECT_EQ(HumanRate(1'200'000), "1.20M");
  EXPECT_EQ(HumanLoss(2.31449), "2.314");
  EXPECT_EQ(HumanLoss(0.00031), "0.00031");
  EXPECT_EQ(HumanLoss(std::nan("")), "nan");
}

TEST(TableTest, ColumnsAlignAndEmptyCellsShow) {
  Table table({"A", "LONGER", "LAST"});
  table.Add({"first", "", "x"});
  table.Add({"b", "größe", "y"});
  EXPECT_EQ(table.ToString(0),
            "A      LONGER  LAST\n"
            "first  -       x\n"
            "b      größe   y\n");
}

TEST(TableTest, TheLastColumnIsCutToTheTerminal) {
  Table table({"A", "REASON"});
  table.Add({"job", "waits for a very long time\nand more"});
  EXPECT_EQ(table.ToString(20), "A    REASON\njob  waits for a ...\n");
  EXPECT_EQ(table.ToString(4), "A    REASON\njob  waits f...\n") << "a narrow terminal still shows something";
}

TEST(TableTest, CutsBetweenCharacters) {
  EXPECT_EQ(FitTo("äöüäöü", 6), "äöüäöü");
  EXPECT_EQ(FitTo("äöüäöüä", 6), "äöü...");
  EXPECT_EQ(FitTo("a\x1b[2Jb", 10), "a [2Jb") << "control characters cannot reach the terminal";
}

TEST(TableTest, WhatIsPrintableHasNoControlCharacterAndIsUtf8) {
  EXPECT_EQ(Printable("größe 图"), "größe 图");
  EXPECT_EQ(Printable("a\nb\tc\rd\x7f"), "a b c d ");
  EXPECT_EQ(Printable("a\xc2\x9b"
                      "2Jb\xc2\xa0"),
            "a 2Jb\xc2\xa0")
      << "C1: U+009B begins a sequence as ESC [ does";
  EXPECT_EQ(Printable("\xff|\xc3|\xed\xa0\x80"), "?|?|???");
}

TEST(TerminalTest, RedrawsItsBlockInPlace) {
  std::string screen;
  int columns = 12;
  TerminalOptions options;
  options.out = [&](std::string_view text) { screen += text; };
  options.error = options.out;
  options.interactive = true;
  options.columns = [&] { return columns; };
  Terminal terminal(options);
  terminal.Redraw({"one", "two"});
  EXPECT_EQ(screen, "one\x1b[K\ntwo\x1b[K\n\x1b[J");
  screen.clear();
  columns = 8;
  terminal.Redraw({"longer than that"});
  EXPECT_EQ(screen, "\x1b[2A\rlong...\x1b[K\n\x1b[J") << "up two lines, cut to the new width, the rest cleared";
  screen.clear();
  terminal.Error("oops");
  EXPECT_EQ(screen, "\x1b[1A\r\x1b[Joops\nlong...\x1b[K\n\x1b[J") << "above the block, which is drawn again";
  screen.clear();
  terminal.EndLive();
  terminal.Line("done");
  EXPECT_EQ(screen, "done\n");
}

TEST(TerminalTest, LinesAndErrorsOfOthersCannotSteerIt) {
  std::string screen;
  TerminalOptions options;
  options.out = [&](std::string_view text) { screen += text; };
  options.error = options.out;
  Terminal terminal(options);
  terminal.Line("a\x1b[2J\nb\r");
  terminal.Error("refused: \x07\xff");
  terminal.Line("");
  EXPECT_EQ(screen, "a [2J\nb \nrefused:  ?\n\n");
}

TEST(MessageTextTest, JsonKeepsTheNamesOfTheProtoAndYamlSaysTheSame) {
  v1::Job job;
  job.set_job_id("123");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.set_reason("waits: \"a\"\n# no comment");
  v1::Stage* const stage = job.add_stages();
  stage->set_name("true");
  stage->mutable_progress()->set_loss(0.5);
  stage->set_fence(7);
  const absl::StatusOr<std::string> json = MessageToJson(job);
  ASSERT_TRUE(json.ok());
  const nlohmann::json read = nlohmann::json::parse(*json);
  EXPECT_EQ(read["job_id"], "123");
  EXPECT_EQ(read["state"], "JOB_STATE_RUNNING");
  EXPECT_EQ(read["stages"][0]["fence"], "7") << "64-bit numbers are strings in Protobuf's JSON";
  EXPECT_EQ(read["next_action"], "") << "defaults are printed";

  const absl::StatusOr<std::string> yaml = MessageToText(job, OutputFormat::kYaml);
  ASSERT_TRUE(yaml.ok());
  const YAML::Node node = YAML::Load(*yaml);
  EXPECT_EQ(node["job_id"].Tag(), "!") << "quoted: stays a string";
  EXPECT_EQ(node["job_id"].as<std::string>(), "123");
  EXPECT_EQ(node["reason"].as<std::string>(), job.reason());
  EXPECT_EQ(node["stages"][0]["name"].as<std::string>(), "true");
  EXPECT_EQ(node["stages"][0]["progress"]["loss"].as<double>(), 0.5);
  EXPECT_EQ(node.size(), read.size());
}

TEST(MessageTextTest, EmptyListsAndMapsAreValidYaml) {
  EXPECT_EQ(JsonToYaml(R"({"jobs": [], "more": {"x": null, "y": -1.5, "z": true}, "none": {}})"),
            "jobs: []\nmore:\n  x: ~\n  y: -1.5\n  z: true\nnone: {}\n");
}

TEST(MessageTextTest, ControlCharactersAreEscaped) {
  v1::Job job;
  job.set_reason(
      "a\x1b\x7f\xc2\x9b"
      "b\n");
  const std::string document = nlohmann::json{{"reason", job.reason()}}.dump();  // as the verbs join messages
  for (const OutputFormat format : {OutputFormat::kJson, OutputFormat::kYaml}) {
    for (const std::string& text : {MessageToText(job, format).value(), JsonToText(document, format)}) {
      for (const char* const control : {"\x1b", "\x7f", "\xc2\x9b"}) {
        EXPECT_THAT(text, testing::Not(testing::HasSubstr(control)));
      }
      EXPECT_EQ(YAML::Load(text)["reason"].as<std::string>(), job.reason()) << text;  // JSON is YAML
    }
  }
}

TEST(MessageTextTest, ATimeOutOfRangeIsAnErrorNotACrash) {
  v1::Job job;
  job.mutable_submitted_at()->set_seconds(INT64_MAX);
  EXPECT_EQ(MessageToJson(job).status().code(), absl::StatusCode::kInternal);
}

TEST(JobViewsTest, ReasonsAndNamesCannotSteerTheTerminal) {
  v1::Job job;
  job.set_job_id("a\x1b[2J");
  job.set_state(v1::JOB_STATE_FAILED);
  job.set_reason("one\ntwo\x1b[2J");
  v1::Stage* const stage = job.add_stages();
  stage->set_name("sft\r");
  stage->set_kind("sft\x1b");
  stage->set_state(v1::STAGE_STATE_FAILED);
  stage->set_reason(
      "\xc2\x9b"
      "2J");
  FollowView view;
  view.SetJob(job);
  const std::string text = JobDescription(job, {}, {}) + view.Summary(absl::UnixEpoch()) +
                           absl::StrJoin(view.TakePlainLines(absl::UnixEpoch(), absl::ZeroDuration()), "\n");
  EXPECT_THAT(text, testing::HasSubstr("one two [2J"));
  for (const char* const control : {"\x1b", "\r", "\xc2\x9b"})
    EXPECT_THAT(text, testing::Not(testing::HasSubstr(control)));
}

TEST(JobViewsTest, WordsAreTheEnumsNames) {
  EXPECT_EQ(Word(v1::STAGE_STATE_UPSTREAM_FAILED), "upstream_failed");
  EXPECT_EQ(Word(v1::JOB_STATE_SUCCEEDED), "succeeded");
  EXPECT_EQ(Word(v1::FAILURE_CLASS_WORKER_LOST), "worker_lost");
  EXPECT_EQ(Word(static_cast<v1::JobState>(77)), "77") << "a state of a later version";
}

TEST(ExitCodeTest, CodesAreUniqueAndInOrder) {
  std::set<int> codes;
  int last = -1;
  for (const ExitCodeRow& row : ExitCodeTable()) {
    EXPECT_GT(static_cast<int>(row.code), last);
    last = static_cast<int>(row.code);
    EXPECT_FALSE(row.meaning.empty());
    codes.insert(last);
  }
  EXPECT_EQ(codes.size(), 13u);
  for (const ExitCodeRow& row : ExitCodeTable()) {
    EXPECT_THAT(ExitCodesHelp(), testing::HasSubstr(std::string(row.meaning)));
  }
}

TEST(ExitCodeTest, EveryErrorHasACode) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), ExitCode::kOk);
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("")), ExitCode::kNotFound);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("")), ExitCode::kUnreachable);
  EXPECT_EQ(ExitCodeOf(absl::ResourceExhaustedError("")), ExitCode::kUnreachable);
  EXPECT_EQ(ExitCodeOf(absl::UnauthenticatedError("")), ExitCode::kRefused);
  EXPECT_EQ(ExitCodeOf(absl::FailedPreconditionError("")), ExitCode::kWrongState);
  EXPECT_EQ(ExitCodeOf(absl::DataLossError("")), ExitCode::kDamaged);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("")), ExitCode::kFailed);
  EXPECT_EQ(ExitCodeOfJob(v1::JOB_STATE_SUCCEEDED), ExitCode::kOk);
  EXPECT_EQ(ExitCodeOfJob(v1::JOB_STATE_FAILED), ExitCode::kJobFailed);
  EXPECT_EQ(ExitCodeOfJob(v1::JOB_STATE_CANCELLED), ExitCode::kJobCancelled);
}

}  // namespace
}  // namespace vlm::cli
