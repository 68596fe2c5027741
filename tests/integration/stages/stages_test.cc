// What stages compute: the small job end to end, equal bits for any number of ranks and zero level, resuming on
// another number of ranks. Ranks are threads here; tests/integration/service runs them as processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "base/clock.h"
#include "base/file_system.h"
#include "base/hooked_file_system.h"
#include "base/mutex.h"
#include "checkpoint/format/safetensors_reader.h"
#include "data/image/image.h"
#include "tests/integration/stages/stage_runs.h"
#include "trainer/exit_code.h"
#include "trainer/model_show.h"
#include "trainer/stages/report.h"

namespace vlm::trainer {
namespace {

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

TEST(StagesTest, TheSmallJobRunsToItsReport) {
  const std::unique_ptr<LocalJob> job = NewJob("whole");
  const absl::Status status = job->RunAll({.world = 2});
  ASSERT_TRUE(status.ok()) << status;
  const std::map<std::string, std::string> report = Contents(job->ArtifactFolder("evaluate"));
  ASSERT_EQ(report.count("report.html"), 1u);
  const std::string& html = report.at("report.html");
  EXPECT_EQ(Count(html, "<polyline"), 3);  // pretrain, align, sft
  EXPECT_EQ(Count(html, "src=\"data:image/png;base64,"), 4);
  EXPECT_EQ(Count(html, "http://") + Count(html, "https://") + Count(html, "<script"), 0);
  for (int i = 0; i < 4; ++i) {
    const std::string& png = report.at("picture-0" + std::to_string(i) + ".png");
    const auto picture = data::DecodeImage(std::as_bytes(std::span(png.data(), png.size())), {});
    ASSERT_TRUE(picture.ok()) << picture.status();
    EXPECT_GE(picture->width, 24);
    EXPECT_EQ(Count(html, absl::Base64Escape(png)), 1) << i;
  }
  for (const char* const part : {"\"scenes\"", "\"pairs\"", "\"interval_95\"", "\"sft\"", "\"blank_picture\""}) {
    EXPECT_THAT(report.at("report.json"), ::testing::HasSubstr(part));
  }
  EXPECT_EQ(Count(report.at("answers.jsonl"), "\n"), 8 + 4);  // the limits of both tasks
  EXPECT_EQ(ParseCurve(Contents(job->ArtifactFolder("sft")).at("curves.jsonl")).size(), 8u);
}

// Losses of every step against those under version control. The tolerance of a step is for another CPU's rounding,
// which grows as training goes on; a change of the mathematics is far outside. To make the file anew after a change
// that is meant:  build/test/tests/integration/stages/run_job examples/shapes/tiny.yaml FOLDER 1 && python3
// tests/golden/make_curves.py FOLDER
TEST(StagesTest, CurvesOfTheSmallJobAreGolden) {
  const std::unique_ptr<LocalJob> job = NewJob("golden");
  RunUpTo(job.get(), "sft", {.world = 2});
  const absl::StatusOr<std::string> text =
      ReadFile(PosixFileSystem(), VLM_SOURCE_DIR "/tests/golden/tiny_curves.json", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  const nlohmann::json golden = nlohmann::json::parse(*text);
  for (const char* const stage : {"pretrain", "align", "sft"}) {
    const std::vector<CurvePoint> curve = ParseCurve(Contents(job->ArtifactFolder(stage)).at("curves.jsonl"));
    ASSERT_EQ(curve.size(), golden.at(stage).size()) << stage;
    for (size_t i = 0; i < curve.size(); ++i) {
      const nlohmann::json& expected = golden.at(stage)[i];
      EXPECT_EQ(curve[i].step, expected.at("step").get<uint64_t>()) << stage;
      EXPECT_NEAR(curve[i].loss, expected.at("loss").get<double>(), expected.at("tolerance").get<double>())
          << stage << ", step " << curve[i].step;
    }
  }
}

TEST(StagesTest, OneRankAndTwoAndBothZeroLevelsGiveTheSameBytes) {
  std::map<std::string, std::string> reference;
  for (const int world : {1, 2}) {
    for (const int zero : {0, 2}) {
      const std::string name = "w" + std::to_string(world) + "z" + std::to_string(zero);
      std::vector<std::string> overrides;
      for (const char* const stage : {"pretrain", "align", "sft"}) {
        overrides.push_back(std::string("spec.stages[") + stage + "].train.zero=" + std::to_string(zero));
      }
      overrides.push_back("spec.stages[sft].train.steps=20");
      const std::unique_ptr<LocalJob> job = NewJob(name, overrides);
      RunUpTo(job.get(), "sft", {.world = world});
      std::map<std::string, std::string> contents = Contents(job->ArtifactFolder("sft"));
      contents.erase("trainer_state.json");  // names the data's digest, which holds absolute paths
      contents.erase("trainer_state.json.sum");
      if (reference.empty()) {
        reference = std::move(contents);
        EXPECT_EQ(ParseCurve(reference.at("curves.jsonl")).size(), 20u);
      } else {
        SCOPED_TRACE(name);
        ExpectSameFiles(reference, contents);
      }
    }
  }
}

TEST(StagesTest, AResumeOnAnotherNumberOfRanksChangesNoBit) {
  std::map<std::string, std::string> whole;
  for (const auto& [first, second] : std::vector<std::pair<int, int>>{{1, 1}, {2, 1}, {1, 2}}) {
    const std::unique_ptr<LocalJob> other = NewJob("resume" + std::to_string(first) + std::to_string(second));
    RunUpTo(other.get(), "align", {.world = 1});
    if (first != second) {
      ASSERT_TRUE(other->RunStage("sft", {.world = first, .stop_after_save = 4}).ok());
    }
    ASSERT_TRUE(other->RunStage("sft", {.world = second}).ok());
    std::map<std::string, std::string> contents = Contents(other->ArtifactFolder("sft"));
    contents.erase("trainer_state.json");
    contents.erase("trainer_state.json.sum");
    if (whole.empty()) {
      whole = std::move(contents);
    } else {
      SCOPED_TRACE(std::to_string(first) + "->" + std::to_string(second));
      ExpectSameFiles(whole, contents);
    }
  }
}

// Training does not wait for the disk: while a file of step 4 is being synced, steps 5 to 7 are trained.
TEST(StagesTest, StepsAdvanceWhileASaveIsOpen) {
  const std::unique_ptr<LocalJob> job = NewJob("slow_save");
  RunUpTo(job.get(), "align", {.world = 1});
  Mutex mutex;
  CondVar changed;
  uint64_t trained = 0;
  bool met = false, advanced = false;
  const auto slow = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    if (operation != FileOperation::kSync || path.find("/sft/step-00000004") == std::string::npos) {
      return absl::OkStatus();
    }
    MutexLock lock(&mutex);
    if (std::exchange(met, true)) return absl::OkStatus();
    const absl::Duration give_up = RealClock()->Monotonic() + absl::Minutes(1);
    while (trained < 7 && RealClock()->Monotonic() < give_up) changed.WaitFor(&mutex, absl::Seconds(1));
    advanced = trained >= 7;
    return absl::OkStatus();
  });
  const absl::Status status =
      job->RunStage("sft", {.world = 1, .files = slow.get(), .on_progress = [&](const Progress& progress) {
                              MutexLock lock(&mutex);
                              trained = progress.step;
                              changed.NotifyAll();
                            }});
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(met);
  EXPECT_TRUE(advanced);
}

// The last save may be of a hundred gigabytes: the rank that waits for it tells what is written as its progress.
TEST(StagesTest, TheLastSaveTellsItsProgress) {
  const std::unique_ptr<LocalJob> job = NewJob("told_save");
  RunUpTo(job.get(), "align", {.world = 1});
  std::atomic<uint64_t> counter = 0;
  Mutex mutex;
  CondVar changed;
  int publishes = 0;
  uint64_t begun = 0;      // the counter when the rank began to wait
  uint64_t last_sync = 0;  // and when the last file was synced
  std::set<std::string> synced;
  const auto slow = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    if (operation != FileOperation::kSync || path.find("/sft/step-00000008") == std::string::npos) {
      return absl::OkStatus();
    }
    MutexLock lock(&mutex);
    // As a slow disk: the save is begun, then the rank waits for it.
    const absl::Duration give_up = RealClock()->Monotonic() + absl::Minutes(1);
    while (publishes < 2 && RealClock()->Monotonic() < give_up) changed.WaitFor(&mutex, absl::Seconds(1));
    if (!path.ends_with(".sum.tmp")) synced.insert(path);
    last_sync = counter;
    return absl::OkStatus();
  });
  const absl::Status status = job->RunStage("sft", {.world = 1,
                                                    .files = slow.get(),
                                                    .on_progress =
                                                        [&](const Progress& progress) {
                                                          EXPECT_GE(progress.counter, counter);
                                                          counter = progress.counter;
                                                        },
                                                    .on_phase =
                                                        [&](Phase phase) {
                                                          MutexLock lock(&mutex);
                                                          if (phase != Phase::kPublish) return;
                                                          if (++publishes == 2) begun = counter;
                                                          changed.NotifyAll();
                                                        }});
  EXPECT_TRUE(status.ok()) << status;
  // Two files are written at a time: what is told before the sync of one may be the other's.
  ASSERT_GE(synced.size(), 3u);
  EXPECT_GE(counter - begun, synced.size()) << "each file is progress";
  EXPECT_GT(last_sync, begun) << "told while it is written, not at the end";
  EXPECT_GT(counter, last_sync);
}

// While a save is under way, those that find no room are skipped: the rank then trains, and says so.
TEST(StagesTest, ASkippedSaveLeavesThePhaseOfSaving) {
  const std::unique_ptr<LocalJob> job =
      NewJob("skipped_save", {"spec.stages[sft].checkpoint.every=1 steps", "spec.stages[sft].train.steps=10"});
  RunUpTo(job.get(), "align", {.world = 1});
  Mutex mutex;
  CondVar changed;
  uint64_t trained = 0;
  bool met = false;
  const auto slow = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    if (operation != FileOperation::kSync || path.find("/sft/step-00000001") == std::string::npos) {
      return absl::OkStatus();
    }
    MutexLock lock(&mutex);
    if (std::exchange(met, true)) return absl::OkStatus();
    const absl::Duration give_up = RealClock()->Monotonic() + absl::Minutes(1);
    while (trained < 8 && RealClock()->Monotonic() < give_up) changed.WaitFor(&mutex, absl::Seconds(1));
    return absl::OkStatus();
  });
  Phase phase = Phase::kInit;
  std::vector<uint64_t> saving;  // steps after which the rank stood in the phase of saving
  testing::internal::CaptureStderr();
  const absl::Status status = job->RunStage("sft", {.world = 1,
                                                    .files = slow.get(),
                                                    .on_progress =
                                                        [&](const Progress& progress) {
                                                          MutexLock lock(&mutex);
                                                          const bool stepped = progress.step != trained;
                                                          if (stepped && phase == Phase::kSave) {
                                                            saving.push_back(progress.step);
                                                          }
                                                          trained = progress.step;
                                                          changed.NotifyAll();
                                                        },
                                                    .on_phase = [&](Phase now) { phase = now; }});
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(log, ::testing::HasSubstr("checkpoint of step 5 skipped"));
  EXPECT_THAT(saving, ::testing::IsEmpty());
}

// What a stage holds and sends is told once it is known: activations of one micro-batch are measured.
TEST(StagesTest, TheLogTellsMeasuredBytes) {
  const std::unique_ptr<LocalJob> job = NewJob("ledger");
  RunUpTo(job.get(), "pretrain", {.world = 2});
  testing::internal::CaptureStderr();
  const absl::Status status = job->RunStage("align", {.world = 2});
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_TRUE(status.ok()) << status;
  for (const char* const line : {"bytes of rank 0 after step 1\n", "bytes of rank 1 after step 1\n",
                                 "bytes of rank 0 after step 6\n", "bytes of rank 1 after step 6\n"}) {
    const size_t at = log.find(line);
    ASSERT_NE(at, std::string::npos) << line << log;
    EXPECT_THAT(log.substr(at, 400),
                ::testing::ContainsRegex("activations [1-9][0-9]+, .*\ncommunicated: reduced [1-9]"));
  }
}

// The number that stands behind a word of a text.
int64_t NumberAfter(const std::string& text, const std::string& word) {
  const size_t at = text.find(word);
  EXPECT_NE(at, std::string::npos) << word << " in " << text;
  return at == std::string::npos ? -1 : std::atoll(text.c_str() + at + word.size());
}

// What is shown beforehand is what a rank then holds.
TEST(StagesTest, ModelShowTellsWhatARankWillHold) {
  for (const int zero : {0, 3}) {
    const std::string set = "spec.stages[pretrain].train.zero=" + std::to_string(zero);
    const absl::StatusOr<std::string> shown =
        ModelShow({.job_file = kTinyJob, .overrides = {set}, .stage = "pretrain", .ranks = 2});
    ASSERT_TRUE(shown.ok()) << shown.status();
    const std::unique_ptr<LocalJob> held = NewJob("shown" + std::to_string(zero), {set});
    testing::internal::CaptureStderr();
    RunUpTo(held.get(), "pretrain", {.world = 2});
    const std::string log = testing::internal::GetCapturedStderr();
    const std::string resident = log.substr(log.find("resident:"));
    for (const char* const what : {"parameters", "gathered", "gradients", "moments"}) {
      const std::string memory = shown->substr(shown->find("memory of one of 2 ranks"));
      EXPECT_EQ(NumberAfter(memory, what), NumberAfter(resident, what)) << what << ", zero " << zero;
    }
    EXPECT_THAT(*shown, ::testing::HasSubstr("group 0: lr 0.001, weight decay 0.1"));
  }
}

// What a save needs is shown too, and with rows that are packs as many pictures as the context has room for.
TEST(StagesTest, ModelShowBoundsPicturesAndCountsTheSave) {
  const auto shown = [](const std::string& packing) {
    return ModelShow({.job_file = kTinyJob,
                      .overrides = {"spec.stages[sft].train.packing=" + packing},
                      .stage = "sft",
                      .ranks = 1})
        .value();
  };
  const std::string rows = shown("false"), packs = shown("true");
  EXPECT_THAT(rows, ::testing::HasSubstr("4 rows of 160 tokens, 4 pictures"));
  EXPECT_THAT(packs, ::testing::HasSubstr("4 rows of 160 tokens, 40 pictures"));  // of 16 tokens each
  EXPECT_GT(NumberAfter(packs, "\nactivations"), NumberAfter(rows, "\nactivations"));
  int64_t sum = 0;
  const std::string memory = rows.substr(rows.find("memory of one of"));
  for (const char* const what :
       {"\nparameters", "\ngathered", "\ngradients", "\nmaster", "\nmoments", "\nactivations", "\nsnapshot"}) {
    sum += NumberAfter(memory, what);
  }
  EXPECT_EQ(NumberAfter(memory, "\nat most"), sum);
  EXPECT_GT(NumberAfter(memory, "\nsnapshot"), 0);
}

TEST(StagesTest, ModelShowNamesWhatIsWrong) {
  const auto message = [](const ModelShowOptions& options) {
    const absl::StatusOr<std::string> shown = ModelShow(options);
    EXPECT_EQ(shown.status().code(), absl::StatusCode::kInvalidArgument) << shown.status();
    return std::string(shown.status().message());
  };
  EXPECT_THAT(message({.job_file = kTinyJob, .stage = "tokenizer"}),
              ::testing::HasSubstr("trains no model: tokenizer"));
  EXPECT_THAT(message({.job_file = kTinyJob, .stage = "nothing"}),
              ::testing::HasSubstr("no stage of this name: nothing"));
  EXPECT_THAT(message({.job_file = kTinyJob, .overrides = {"spec.stages[sft].train.zero=7"}}),
              ::testing::HasSubstr("spec.stages[sft].train.zero: unknown value: '7'"));
  EXPECT_THAT(
      message({.job_file = kTinyJob, .overrides = {"spec.stages[sft].train.rules=[{pattern: \"*.gamma\", lr: 1e-3}]"}}),
      ::testing::HasSubstr("*.gamma"));
}

// A pool that is restarted in the middle leaves its shards in the folders of two attempts. Neither the order of
// samples nor what is trained on them may tell.
TEST(StagesTest, ARestartedPoolChangesNoWeight) {
  std::map<std::string, std::string> whole;
  for (const bool restarted : {false, true}) {
    const std::unique_ptr<LocalJob> job = NewJob(restarted ? "restarted_pool" : "whole_pool");
    if (restarted) {
      // Of each split some: captions are shards 3 and 4, questions 5 to 7.
      ASSERT_TRUE(job->RunStage("generate", {.shards = {1, 4, 5, 7}}).ok());
    }
    RunUpTo(job.get(), "align", {});
    std::map<std::string, std::string> contents = Contents(job->ArtifactFolder("align"));
    contents.erase("trainer_state.json");  // names the data's digest, which holds absolute paths
    contents.erase("trainer_state.json.sum");
    contents["samples.bin"] = Contents(job->ArtifactFolder("index")).at("samples.bin");
    if (whole.empty()) {
      whole = std::move(contents);
    } else {
      ExpectSameFiles(whole, contents);
    }
  }
}

// A shard may take longer than a rank may be silent: progress is told by record, by answer and by merge.
TEST(StagesTest, PoolsTellProgressInsideAShard) {
  const std::unique_ptr<LocalJob> job = NewJob("progress");
  // Least counts: records of all shards; texts and merges; records; tokens of answers.
  const std::map<std::string, uint64_t> least = {{"generate", 48 + 32 + 48 + 16 + 16},
                                                 {"tokenizer", 48 + 32 + 48},
                                                 {"index", 32 + 48 + 16 + 16},
                                                 {"evaluate", 12}};
  for (const spec::Stage& stage : job->job().stages) {
    uint64_t counter = 0, finishing = 0;
    bool in_finish = false;
    const absl::Status status =
        job->RunStage(stage.name, {.on_progress =
                                       [&](const Progress& progress) {
                                         EXPECT_GE(progress.counter, counter);
                                         counter = progress.counter;
                                         finishing += in_finish ? 1 : 0;
                                       },
                                   .on_phase = [&](Phase phase) { in_finish = phase == Phase::kPublish; }});
    ASSERT_TRUE(status.ok()) << stage.name << ": " << status;
    if (const auto expected = least.find(stage.name); expected != least.end()) {
      EXPECT_GE(counter, expected->second) << stage.name;
    }
    if (stage.name == "tokenizer") {
      EXPECT_GE(finishing, 40u);  // merges: 320 entries less 256 bytes and the special tokens
    }
  }
}

TEST(StagesTest, AModelIsNotTrainedOnAnIndexOfAnotherTokenizer) {
  const std::unique_ptr<LocalJob> job = NewJob("tokenizers"), other = NewJob("other_tokenizer", {"spec.seed=8"});
  RunUpTo(job.get(), "pretrain", {});
  RunUpTo(other.get(), "tokenizer", {});
  const std::string mine = job->ArtifactFolder("pretrain") + "/tokenizer.json";
  ASSERT_TRUE(PosixFileSystem()->Remove(mine).ok());
  std::filesystem::copy_file(other->ArtifactFolder("tokenizer") + "/tokenizer.json", mine);
  const absl::Status status = job->RunStage("align", {});
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kUserError) << status;
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(::testing::HasSubstr("different tokenizers"), ::testing::HasSubstr("stage pretrain"),
                               ::testing::HasSubstr("stage index")));
}

// Of a model that learned nothing, answers go on until the context ends them.
TEST(StagesTest, AnAnswerIsCutAtTheContextAndTellsIt) {
  const std::unique_ptr<LocalJob> job = NewJob("cut", {"spec.stages[evaluate].generation.max_tokens=1000"});
  const absl::Status status = job->RunAll({});
  ASSERT_TRUE(status.ok()) << status;
  const std::map<std::string, std::string> report = Contents(job->ArtifactFolder("evaluate"));
  EXPECT_GT(Count(report.at("answers.jsonl"), "\"cut\":true"), 0);
  EXPECT_THAT(report.at("report.json"), ::testing::HasSubstr("\"cut_by_context\""));
  EXPECT_THAT(report.at("report.html"), ::testing::HasSubstr("answers were cut by the model's context"));
}

// The bytes of one tensor of a safetensors file.
std::vector<std::byte> TensorOf(const std::string& path, const std::string& name) {
  const auto file = checkpoint::SafetensorsReader::Open(PosixFileSystem(), path);
  EXPECT_TRUE(file.ok()) << file.status();
  const checkpoint::TensorEntry* const entry = (*file)->Find(name);
  EXPECT_NE(entry, nullptr) << name;
  EXPECT_EQ(entry->dtype, checkpoint::DType::kBF16);
  std::vector<std::byte> bytes(entry->bytes());
  EXPECT_TRUE((*file)->Read(*entry, 0, bytes).ok());
  return bytes;
}

// Every training setting at once, on one rank and two: each is seen to act, and none costs a bit of equality.
TEST(StagesTest, SettingsOfTheJobFileReachTheStep) {
  const std::string train = "spec.stages[sft].train.";
  const std::vector<std::string> settings = {train + "precision=bf16",
                                             train + "overlap=true",
                                             train + "recompute=true",
                                             train + "label_smoothing=0.1",
                                             train + "schedule={kind: linear, warmup: 2 steps, final_ratio: 0.5}",
                                             train + "trainable=[vision, connector, \"llm.blocks[1:2]\"]",
                                             train + "rules=[{pattern: \"*fc1.weight\", lr: 5e-3}]"};
  std::map<std::string, std::string> one_rank;
  for (const int world : {1, 2}) {
    const std::unique_ptr<LocalJob> job = NewJob("settings" + std::to_string(world), settings);
    RunUpTo(job.get(), "sft", {.world = world});
    const std::string last = job->ArtifactFolder("sft");
    const std::string first = last.substr(0, last.rfind('/')) + "/step-00000004" + last.substr(last.rfind("-f"));
    const std::string layer = "language_model.model.layers.";
    for (const bool frozen : {true, false}) {
      const std::string name = layer + (frozen ? "0" : "1") + ".mlp.up_proj.weight";
      EXPECT_EQ(TensorOf(first + "/llm.safetensors", name) == TensorOf(last + "/llm.safetensors", name), frozen);
    }
    std::map<std::string, std::string> contents = Contents(last);
    contents.erase("trainer_state.json");
    contents.erase("trainer_state.json.sum");
    if (one_rank.empty()) {
      one_rank = std::move(contents);
    } else {
      ExpectSameFiles(one_rank, contents);
    }
  }
  const std::vector<CurvePoint> curve = ParseCurve(one_rank.at("curves.jsonl"));
  ASSERT_EQ(curve.size(), 8u);
  std::vector<double> rates;  // of the group that learns fastest: the rule's
  for (const CurvePoint& point : curve) rates.push_back(point.learning_rate);
  EXPECT_THAT(rates, ::testing::Pointwise(::testing::DoubleNear(1e-9),
                                          {2.5e-3, 5e-3, 5e-3 - 2.5e-3 / 6, 5e-3 - 5e-3 / 6, 3.75e-3, 2.5e-3 + 5e-3 / 6,
                                           2.5e-3 + 2.5e-3 / 6, 2.5e-3}));
  const std::unique_ptr<LocalJob> sharp = NewJob("sharp", {train + "precision=bf16"});
  RunUpTo(sharp.get(), "sft", {.world = 1});
  const std::string sharp_curve = Contents(sharp->ArtifactFolder("sft")).at("curves.jsonl");
  EXPECT_NE(ParseCurve(sharp_curve)[0].loss, curve[0].loss);  // label smoothing, before anything was learned
}

// Fails every sync of a file whose path holds one of `parts`, as a full or broken disk does.
std::unique_ptr<FileSystem> DiskThatFails(std::vector<std::string> parts) {
  return NewHookedFileSystem(PosixFileSystem(), [parts](FileOperation operation, const std::string& path) {
    const bool hit = operation == FileOperation::kSync &&
                     std::any_of(parts.begin(), parts.end(),
                                 [&](const std::string& part) { return path.find(part) != std::string::npos; });
    return hit ? absl::ResourceExhaustedError("sync " + path + ": No space left on device") : absl::OkStatus();
  });
}

TEST(StagesTest, ASaveThatFailsCostsOnlyItself) {
  const std::unique_ptr<LocalJob> job = NewJob("failed_save");
  RunUpTo(job.get(), "align", {.world = 2});
  const auto disk = DiskThatFails({"/sft/step-00000004"});
  const absl::Status status = job->RunStage("sft", {.world = 2, .files = disk.get()});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(job->ArtifactFolder("sft"), ::testing::HasSubstr("step-00000008"));
}

TEST(StagesTest, ThreeFailedSavesInARowEndTheAttempt) {
  const std::unique_ptr<LocalJob> job =
      NewJob("failed_saves", {"spec.stages[sft].checkpoint.every=1 steps", "spec.stages[sft].train.steps=200"});
  RunUpTo(job.get(), "align", {.world = 1});
  const auto disk = DiskThatFails({"/sft/step-"});
  const absl::Status status = job->RunStage("sft", {.world = 1, .files = disk.get()});
  EXPECT_THAT(std::string(status.message()), ::testing::AllOf(::testing::HasSubstr("saves in a row failed"),
                                                              ::testing::HasSubstr("No space left on device")));
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kStorage);
}

// A frozen text model is written by the first save of a stage; the second links it.
TEST(StagesTest, FrozenWeightsAreLinkedNotWrittenAgain) {
  const std::unique_ptr<LocalJob> job = NewJob("links");
  RunUpTo(job.get(), "align", {.world = 2});
  const std::string last = job->ArtifactFolder("align");
  const std::string first = last.substr(0, last.rfind('/')) + "/step-00000003" + last.substr(last.rfind("-f"));
  for (const char* const file : {"/llm.safetensors", "/llm.safetensors.sum"}) {
    EXPECT_TRUE(std::filesystem::equivalent(first + file, last + file)) << first << file;
  }
  EXPECT_FALSE(std::filesystem::equivalent(first + "/vision.safetensors", last + "/vision.safetensors"));
}

TEST(ScoreTest, WilsonIntervalMatchesItsFormulaAndEnds) {
  const Interval half = WilsonInterval(50, 100);
  EXPECT_NEAR(half.low, 0.4038, 1e-4);
  EXPECT_NEAR(half.high, 0.5962, 1e-4);
  EXPECT_NEAR(WilsonInterval(0, 10).low, 0, 1e-12);
  EXPECT_DOUBLE_EQ(WilsonInterval(10, 10).high, 1);
}

TEST(ScoreTest, TargetsControlsAndMajority) {
  std::vector<Answered> answers;
  for (int i = 0; i < 10; ++i) {
    answers.push_back({"scenes", "color", 0, "q", i < 6 ? "red" : "blue", i < 9 ? (i < 6 ? "red" : "blue ") : "green",
                       std::string("red")});
  }
  const std::vector<TaskScore> good = Score(answers, {{{"scenes", {{"color", 0.9}}}}, 0.05});
  ASSERT_EQ(good.size(), 1u);
  EXPECT_EQ(good[0].kinds.at("color").correct, 9);
  EXPECT_EQ(good[0].kinds.at("color").majority_answer, "red");
  EXPECT_DOUBLE_EQ(*good[0].kinds.at("color").blank, 0.6);
  EXPECT_TRUE(good[0].passed());
  EXPECT_FALSE(Score(answers, {{{"scenes", {{"color", 0.95}}}}, 0.05})[0].passed());
  for (Answered& answer : answers) answer.blank = answer.expected;  // answers without seeing: something leaks
  EXPECT_FALSE(Score(answers, {{}, 0.05})[0].passed());
  for (Answered& answer : answers) answer.blank = "pear";  // no guess, but something that no question allows
  EXPECT_FALSE(Score(answers, {{}, 0.05})[0].passed());
}

// A target that is misspelled would otherwise be met by nobody asking.
TEST(ScoreTest, ATargetForNothingFailsItsTaskAndSaysWhatOccurs) {
  std::vector<Answered> answers;
  for (const char* const kind : {"color", "count"}) answers.push_back({"scenes", kind, 0, "q", "red", "red", {}});
  Report report;
  report.scores = Score(answers, {{{"scenes", {{"colour", 0.5}, {"count", 0.5}}}, {"pairs", {}}}, 0.05});
  ASSERT_EQ(report.scores.size(), 2u);
  EXPECT_THAT(Findings(report.scores[0]), ::testing::ElementsAre("task has no answers: pairs"));
  EXPECT_THAT(
      Findings(report.scores[1]),
      ::testing::ElementsAre("task scenes has a target for a kind that no question is of: colour; name one that "
                             "occurs: color, count"));
  for (const TaskScore& score : report.scores) EXPECT_FALSE(score.passed()) << score.task;
  for (const std::string& text : {ReportText(report), ReportHtml(report), ReportJson(report)}) {
    EXPECT_THAT(text, ::testing::AllOf(::testing::HasSubstr("no question is of: colour"),
                                       ::testing::HasSubstr("no answers: pairs")));
  }
  EXPECT_TRUE(Score(answers, {{{"scenes", {{"color", 0.5}}}}, 0.05})[0].passed());
  EXPECT_THAT(Findings(Score(answers, {{{"scenes", {{"color", 0.5}}}}, 0.05})[0]), ::testing::IsEmpty());
}

TEST(ScoreTest, EveryKindOfQuestionIsShown) {
  std::vector<Answered> answers;
  for (int i = 0; i < 40; ++i) {
    Answered answer;
    answer.task = i < 36 ? "scenes" : "pairs";
    answer.kind = i % 4 == 0 ? "a" : "b";
    answer.sample = static_cast<uint64_t>(i);
    answers.push_back(answer);
  }
  std::vector<uint64_t> samples;
  for (const Answered& answer : ChooseShown(answers, "scenes", 6)) samples.push_back(answer.sample);
  EXPECT_EQ(samples, (std::vector<uint64_t>{0, 1, 12, 13, 24, 25}));
  EXPECT_EQ(ChooseShown(answers, "pairs", 16).size(), 4u);
  EXPECT_TRUE(ChooseShown(answers, "none", 16).empty());
}

}  // namespace
}  // namespace vlm::trainer
