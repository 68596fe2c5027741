// Stages that meet bad checkpoints, full disks and numbers that are not finite: what is said, and that nothing is lost.
// Ranks are threads here; tests/integration/service shows the same with processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/file_system.h"
#include "base/hooked_file_system.h"
#include "checkpoint/format/durable_file.h"
#include "tests/integration/stages/stage_runs.h"
#include "tests/support/small_disk.h"
#include "trainer/exit_code.h"
#include "trainer/stages/report.h"

namespace vlm::trainer {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

// The newest folder of a stage's step, "" when there is none.
std::string StepFolder(const std::string& job_folder, const std::string& stage, uint64_t step) {
  std::string newest;
  const std::string prefix = absl::StrFormat("step-%08d-f", step);
  const std::string stage_folder = job_folder + "/artifacts/jobs/local/" + stage;
  for (const auto& entry : std::filesystem::directory_iterator(stage_folder)) {
    if (entry.path().filename().string().starts_with(prefix)) newest = std::max(newest, entry.path().string());
  }
  return newest;
}

void FlipByte(const std::string& path, int64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at, at < 0 ? std::ios::end : std::ios::beg);
  const auto position = file.tellg();
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(position);
  file.put(byte);
  ASSERT_TRUE(file.good()) << path;
}

// What a stage learned and how: all but the file that names where its data lie.
std::map<std::string, std::string> Learned(const LocalJob& job, const std::string& stage) {
  std::map<std::string, std::string> contents = Contents(job.ArtifactFolder(stage));
  contents.erase("trainer_state.json");
  contents.erase("trainer_state.json.sum");
  return contents;
}

// Every stage that stands before `last`.
void RunBefore(LocalJob* job, const std::string& last) {
  for (const spec::Stage& stage : job->job().stages) {
    if (stage.name == last) return;
    const absl::Status status = job->RunStage(stage.name, {.world = 1});
    ASSERT_TRUE(status.ok()) << stage.name << ": " << status;
  }
}

// Trained up to its last step but one, so that there is something to resume from.
class ResumeTest : public ::testing::Test {
 protected:
  std::unique_ptr<LocalJob> NewTrained(const std::string& name) {
    std::unique_ptr<LocalJob> job = NewJob(name, {"spec.stages[sft].train.steps=12"});
    folder_ = FolderOf(name);
    RunUpTo(job.get(), "align", {.world = 1});
    for (const uint64_t step : {4, 8}) {
      const absl::Status status = job->RunStage("sft", {.world = 1, .stop_after_save = step});
      EXPECT_TRUE(status.ok()) << status;
    }
    return job;
  }
  std::string folder_;
};

struct Damage {
  std::string what;
  std::string file;
  std::function<void(const std::string& path)> make;
  std::string told;  // beside the file
};

TEST_F(ResumeTest, EveryDamageIsNamedAndTheStepBeforeIsResumedFrom) {
  const std::string chunk = "chunk 0 (bytes 0 to ";
  const auto flip = [](int64_t at) { return [at](const std::string& path) { FlipByte(path, at); }; };
  const std::vector<Damage> damages = {
      {"a byte of the weights", "llm.safetensors", flip(-100), chunk},
      {"a byte of the weights' header", "vision.safetensors", flip(40), chunk},
      {"a byte of a moment", "optimizer-00001-of-00001.safetensors", flip(-5), chunk},
      {"a digit of Adam's count", "optimizer.json", flip(-20), chunk},
      {"a byte of the index", "model.safetensors.index.json", flip(60), "contents differ from those committed"},
      {"a byte of the curve", "curves.jsonl", flip(12), chunk},
      {"a byte of the trainer's state", "trainer_state.json", flip(30), chunk},
      {"a byte of the sums", "llm.safetensors.sum", flip(-10), "llm.safetensors.sum"},
      {"cut short", "llm.safetensors",
       [](const std::string& path) { std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1); },
       "its sums were made for"},
      {"cut to nothing", "curves.jsonl", [](const std::string& path) { std::filesystem::resize_file(path, 0); },
       "has 0 bytes, its sums were made for"},
      {"longer", "vision.safetensors", [](const std::string& path) { std::ofstream(path, std::ios::app) << "x"; },
       "its sums were made for"},
      {"gone", "llm.safetensors", [](const std::string& path) { std::filesystem::remove(path); }, "llm.safetensors"},
  };
  const std::unique_ptr<LocalJob> job = NewTrained("damage");
  for (const Damage& damage : damages) {
    SCOPED_TRACE(damage.what);
    damage.make(StepFolder(folder_, "sft", 8) + "/" + damage.file);
    const absl::Status failed = job->RunStage("sft", {.world = 1});
    EXPECT_EQ(ExitCodeOf(failed), ExitCode::kDamagedCheckpoint) << failed;
    EXPECT_THAT(Text(failed), AllOf(HasSubstr("cannot resume from step 8"), HasSubstr("/" + damage.file),
                                    HasSubstr(damage.told), HasSubstr("resumes from the step before")));
    uint64_t first = 0;
    const auto progress = [&](const Progress& now) { first = first == 0 ? now.step : first; };
    const absl::Status again = job->RunStage("sft", {.world = 1, .stop_after_save = 8, .on_progress = progress});
    ASSERT_TRUE(again.ok()) << again;
    EXPECT_EQ(first, 5u);
  }
  ASSERT_TRUE(job->RunStage("sft", {.world = 2}).ok());
  const std::unique_ptr<LocalJob> undisturbed = NewJob("undisturbed", {"spec.stages[sft].train.steps=12"});
  RunUpTo(undisturbed.get(), "sft", {.world = 1});
  ExpectSameFiles(Learned(*undisturbed, "sft"), Learned(*job, "sft"));
}

// What only this rank's machine reads wrongly is no reason to leave the step.
TEST_F(ResumeTest, ADamageThatTheServiceDoesNotSeeCostsNoStep) {
  const std::unique_ptr<LocalJob> job = NewTrained("unconfirmed");
  const auto broken = NewHookedFileSystem(PosixFileSystem(), [](FileOperation operation, const std::string& path) {
    const bool hit = operation == FileOperation::kRead && path.find("step-00000008") != std::string::npos &&
                     path.ends_with("llm.safetensors");
    return hit ? absl::DataLossError("read " + path + ": Input/output error") : absl::OkStatus();
  });
  const absl::Status failed = job->RunStage("sft", {.world = 1, .files = broken.get()});
  EXPECT_EQ(ExitCodeOf(failed), ExitCode::kDamagedCheckpoint);
  EXPECT_THAT(Text(failed), AllOf(HasSubstr("the checkpoint service reads it as it was committed"),
                                  HasSubstr("look at the disk and memory of this rank's machine")));
  uint64_t first = 0;
  const absl::Status status = job->RunStage("sft", {.world = 1, .on_progress = [&](const Progress& progress) {
                                                      if (first == 0 && progress.step > 0) first = progress.step;
                                                    }});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(first, 9u);
}

TEST_F(ResumeTest, ACheckpointOfOtherSettingsIsIncompatible) {
  const std::unique_ptr<LocalJob> job = NewTrained("other_settings");
  const std::string path = StepFolder(folder_, "sft", 8) + "/trainer_state.json";
  nlohmann::ordered_json state = nlohmann::ordered_json::parse(*ReadFile(PosixFileSystem(), path, 1 << 20));
  state["fingerprint"] = std::string(64, '0');
  std::filesystem::remove(path);
  std::filesystem::remove(path + ".sum");
  ASSERT_TRUE(checkpoint::WriteDurableFile(PosixFileSystem(), path, state.dump()).ok());
  const absl::Status failed = job->RunStage("sft", {.world = 1});
  EXPECT_EQ(ExitCodeOf(failed), ExitCode::kIncompatible) << failed;
  EXPECT_THAT(Text(failed), AllOf(HasSubstr("the checkpoint was made with other data or settings"),
                                  HasSubstr("step-00000008"), HasSubstr("submit a new job")));
}

TEST(OtherShapeTest, WeightsOfAnotherShapeAreIncompatible) {
  const std::unique_ptr<LocalJob> job = NewJob("other_shape");
  RunUpTo(job.get(), "align", {.world = 1});
  const std::string path = job->ArtifactFolder("align") + "/config.json";
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(*ReadFile(PosixFileSystem(), path, 1 << 20));
  config["text_config"]["intermediate_size"] = 48;
  std::filesystem::remove(path);
  std::ofstream(path) << config.dump();
  const absl::Status failed = job->RunStage("sft", {.world = 1});
  EXPECT_EQ(ExitCodeOf(failed), ExitCode::kIncompatible) << failed;
  EXPECT_THAT(Text(failed), AllOf(HasSubstr(job->ArtifactFolder("align")),
                                  HasSubstr("tensor of another shape than the model's parameter"),
                                  HasSubstr("mlp.down_proj.weight is [32, 64], expected [32, 48]")));
}

TEST(OtherShapeTest, WeightsThatAreCutShortOrFlippedAreDamage) {
  const std::unique_ptr<LocalJob> job = NewJob("bad_parent");
  RunUpTo(job.get(), "align", {.world = 1});
  const std::string path = job->ArtifactFolder("align") + "/llm.safetensors";
  FlipByte(path, -100);
  absl::Status failed = job->RunStage("sft", {.world = 1});
  EXPECT_EQ(ExitCodeOf(failed), ExitCode::kDamagedCheckpoint) << failed;
  EXPECT_THAT(Text(failed), AllOf(HasSubstr("chunk 0 (bytes 0 to "), HasSubstr(path)));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  failed = job->RunStage("sft", {.world = 1});
  EXPECT_EQ(ExitCodeOf(failed), ExitCode::kDamagedCheckpoint) << failed;
  EXPECT_THAT(Text(failed), AllOf(HasSubstr("its sums were made for"), HasSubstr(path)));
}

class FullDiskTest : public ::testing::Test {
 protected:
  // Until no byte more is taken.
  static void Fill(const std::string& path) {
    std::ofstream file(path, std::ios::binary);
    const std::string block(64 << 10, 'x');
    while (file.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) continue;
  }
};

TEST_F(FullDiskTest, TrainingGoesOnAndSavesAgainOnceThereIsSpace) {
  const std::string root = testing::TempDir() + "small_disk";
  SmallDisk disk(root, 96 << 20);
  if (!disk.mounted()) GTEST_SKIP() << "no tmpfs may be mounted here: " << disk.why_not();
  {
    auto created = LocalJob::Create(root + "/job", kTinyJob, {"spec.stages[sft].train.steps=12"});
    ASSERT_TRUE(created.ok()) << created.status();
    RunUpTo(created->get(), "align", {.world = 1});
    Fill(root + "/filler");
    testing::internal::CaptureStderr();
    const absl::Status status = (*created)->RunStage("sft", {.world = 2, .on_progress = [&](const Progress& progress) {
                                                               if (progress.step == 6)
                                                                 std::filesystem::remove(root + "/filler");
                                                             }});
    const std::string log = testing::internal::GetCapturedStderr();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_THAT(log, AllOf(HasSubstr("checkpoint of step 4 failed, training goes on: "), HasSubstr("bytes free"),
                           Not(HasSubstr("checkpoint of step 8 failed"))));
    EXPECT_EQ(StepFolder(root + "/job", "sft", 4), "");
    EXPECT_NE(StepFolder(root + "/job", "sft", 8), "");
    EXPECT_THAT((*created)->ArtifactFolder("sft"), HasSubstr("step-00000012"));
  }
}

// The disk shows room before the save and has none in the middle of it.
TEST_F(FullDiskTest, ASaveThatFillsTheDiskInItsMiddleIsGivenUpWhole) {
  const std::string name = "fills_up";
  const std::unique_ptr<LocalJob> job = NewJob(name, {"spec.stages[sft].train.steps=12"});
  RunUpTo(job.get(), "align", {.world = 1});
  const std::string stage_folder = FolderOf(name) + "/artifacts/jobs/local/sft";
  SmallDisk disk(stage_folder, 256 << 10);
  if (!disk.mounted()) GTEST_SKIP() << "no tmpfs may be mounted here: " << disk.why_not();
  testing::internal::CaptureStderr();
  const absl::Status status = job->RunStage("sft", {.world = 2, .on_progress = [&](const Progress& progress) {
                                                      if (progress.step != 7) return;
                                                      EXPECT_TRUE(disk.Resize(64 << 20));
                                                    }});
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(log, AllOf(HasSubstr("checkpoint of step 4 failed, training goes on: "), HasSubstr("No space left")));
  // A rank that still wrote while the other gave the step up may have held its removal up for a moment.
  const absl::Duration give_up = RealClock()->Monotonic() + absl::Minutes(1);
  while (!StepFolder(FolderOf(name), "sft", 4).empty() && RealClock()->Monotonic() < give_up) sched_yield();
  EXPECT_EQ(StepFolder(FolderOf(name), "sft", 4), "") << "nothing of the step is left";
  EXPECT_THAT(job->ArtifactFolder("sft"), HasSubstr("step-00000012"));
}

TEST_F(FullDiskTest, ADiskThatStaysFullEndsTheAttemptAsStorageAndKeepsTheLastStep) {
  const std::string root = testing::TempDir() + "full_disk";
  SmallDisk disk(root, 96 << 20);
  if (!disk.mounted()) GTEST_SKIP() << "no tmpfs may be mounted here: " << disk.why_not();
  auto created = LocalJob::Create(root + "/job", kTinyJob,
                                  {"spec.stages[sft].train.steps=40", "spec.stages[sft].checkpoint.every=4 steps"});
  ASSERT_TRUE(created.ok()) << created.status();
  RunUpTo(created->get(), "align", {.world = 1});
  ASSERT_TRUE((*created)->RunStage("sft", {.world = 1, .stop_after_save = 4}).ok());
  Fill(root + "/filler");
  const absl::Status failed = (*created)->RunStage("sft", {.world = 1});
  EXPECT_EQ(ExitCodeOf(failed), ExitCode::kStorage) << failed;
  EXPECT_THAT(Text(failed), AllOf(HasSubstr("3 saves in a row failed"), HasSubstr("bytes free, the step needs"),
                                  HasSubstr("vlmctl retry")));
  std::filesystem::remove(root + "/filler");
  uint64_t first = 0;
  const absl::Status status = (*created)->RunStage("sft", {.world = 1, .on_progress = [&](const Progress& progress) {
                                                             if (first == 0) first = progress.step;
                                                           }});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(first, 5u) << "it goes on from the last good step";
}

// Places for saves that nobody gives back: training must not go on to its last step without a checkpoint.
TEST(LostSavesTest, PlacesThatNoRankWritesToEndTheAttemptAsStorage) {
  const std::unique_ptr<LocalJob> job =
      NewJob("lost_places", {"spec.stages[sft].train.steps=40", "spec.stages[sft].checkpoint.every=4 steps"});
  RunUpTo(job.get(), "align", {.world = 1});
  std::atomic<uint64_t> trained = 0;
  const absl::Status failed = job->RunStage(
      "sft", {.world = 2,
              .on_progress = [&](const Progress& progress) { trained = std::max(+trained, progress.step); },
              .lost_steps = {1001, 1002}});
  EXPECT_EQ(ExitCodeOf(failed), ExitCode::kStorage) << failed;
  EXPECT_THAT(Text(failed), AllOf(HasSubstr("3 saves in a row failed"), HasSubstr("no rank writes, yet 2 steps")));
  EXPECT_LE(trained, 16u);
  const absl::Status next = job->RunStage("sft", {.world = 2});  // gives up what its forerunner left
  EXPECT_TRUE(next.ok()) << next;
}

// A rate and a decay that make weights a thousand times larger at every step, until nothing is finite any more.
TEST(NonFiniteTest, StepsAreSkippedWithoutATraceCountedOverResumesAndEndTheStage) {
  const std::vector<std::string> common = {"spec.stages[pretrain].train.steps=60",
                                           "spec.stages[pretrain].stop_if.nonfinite_steps=3"};
  std::vector<std::string> diverging = common;
  for (const char* const setting : {"train.lr=100", "train.optimizer.weight_decay=10", "checkpoint.every=1 steps"}) {
    diverging.push_back(std::string("spec.stages[pretrain].") + setting);
  }
  const std::unique_ptr<LocalJob> job = NewJob("diverging", diverging);
  RunBefore(job.get(), "pretrain");
  // One step an attempt, on one rank and two in turn: what is counted must be found again by the next.
  std::vector<std::map<std::string, std::string>> saved = {{}};
  uint64_t first_skipped = 0;
  absl::Status ended;
  for (uint64_t step = 1; step < 60; ++step) {
    ended = job->RunStage("pretrain", {.world = 1 + static_cast<int>(step % 2), .stop_after_save = step});
    if (!ended.ok()) break;
    saved.push_back(Contents(StepFolder(FolderOf("diverging"), "pretrain", step)));
    const std::vector<CurvePoint> curve = ParseCurve(saved.back().at("curves.jsonl"));
    ASSERT_EQ(curve.size(), step);
    const bool skipped = saved.back().at("curves.jsonl").find("\"skipped\":true") != std::string::npos;
    if (skipped && first_skipped == 0) first_skipped = step;
  }
  ASSERT_GT(first_skipped, 1u) << "it diverges, but not at once";
  ASSERT_EQ(saved.size(), first_skipped + 3) << "three skipped steps are allowed and saved, the fourth ended the stage";
  EXPECT_EQ(ExitCodeOf(ended), ExitCode::kNumeric) << ended;
  EXPECT_THAT(Text(ended), AllOf(HasSubstr("4 steps in a row had a loss or gradient that is not finite"),
                                 HasSubstr(absl::StrCat("the last one step ", first_skipped + 3)),
                                 HasSubstr("lower the learning rate")));

  // Weights, moments and Adam's counts stand still.
  const std::map<std::string, std::string>& good = saved[first_skipped - 1];
  for (uint64_t step = first_skipped; step < saved.size(); ++step) {
    for (const auto& [name, contents] : saved[step]) {
      const bool moves = name.starts_with("trainer_state.json") || name.starts_with("curves.jsonl");
      EXPECT_EQ(contents == good.at(name), !moves) << name << " of step " << step;
    }
    const nlohmann::json optimizer = nlohmann::json::parse(saved[step].at("optimizer.json"));
    for (const auto& [name, count] : optimizer["steps"].items()) EXPECT_EQ(count, first_skipped - 1) << name;
  }

  // The data cursor and the schedule go on, as those of a run that does not diverge.
  std::vector<std::string> steady = common;
  const uint64_t last = first_skipped + 1;
  steady.push_back(absl::StrCat("spec.stages[pretrain].checkpoint.every=", last, " steps"));
  const std::unique_ptr<LocalJob> other = NewJob("steady", steady);
  RunBefore(other.get(), "pretrain");
  ASSERT_TRUE(other->RunStage("pretrain", {.world = 1, .stop_after_save = last}).ok());
  const std::map<std::string, std::string> reference = Contents(StepFolder(FolderOf("steady"), "pretrain", last));
  const auto cursor = [](const std::map<std::string, std::string>& files) {
    return nlohmann::json::parse(files.at("trainer_state.json"))["cursor"];
  };
  EXPECT_EQ(cursor(saved[last]), cursor(reference));
  EXPECT_NE(cursor(saved[last]), cursor(saved[last - 1]));
  const std::vector<CurvePoint> curve = ParseCurve(saved[last].at("curves.jsonl"));
  const std::vector<CurvePoint> expected = ParseCurve(reference.at("curves.jsonl"));
  ASSERT_EQ(curve.size(), expected.size());
  for (size_t i = 0; i < curve.size(); ++i) {
    EXPECT_NEAR(curve[i].learning_rate / 100, expected[i].learning_rate / 1e-3, 1e-9) << "step " << i + 1;
  }
}

}  // namespace
}  // namespace vlm::trainer
