// What `vlmctl model show` prints for a job file, against the peak of the trainer's allocator while real stages of that
// file run. A program of its own: a peak is the whole process's, and the allocator stands for all of it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "base/hooked_file_system.h"
#include "base/mutex.h"
#include "tests/integration/stages/stage_runs.h"
#include "train/process_memory.h"
#include "trainer/model_show.h"

namespace vlm::trainer {
namespace {

// Two steps each, of rows that packing fills; the first step is saved, and so is the last.
const std::vector<std::string> kLargeModel = {
    "spec.stages[generate].generate.splits[sentences].samples=320",
    "spec.stages[generate].generate.splits[captions].samples=128",
    "spec.stages[pretrain].model.text={hidden: 768, layers: 8, heads: 12, kv_heads: 4, intermediate: 2048, "
    "context: 512}",
    "spec.stages[pretrain].train={steps: 2, global_batch: 1, micro_batch: 1, packing: true, lr: 1e-4}",
    "spec.stages[pretrain].checkpoint.every=1 steps",
    "spec.stages[index].data.context=256",
    "spec.stages[align].model.vision={hidden: 256, layers: 2, heads: 4, intermediate: 1024, image_size: 24, patch: 6}",
    "spec.stages[align].train={steps: 2, global_batch: 3, micro_batch: 3, packing: true, trainable: [all], "
    "lr: {llm: 1e-4, vision: 1e-4, connector: 1e-4}}",
    "spec.stages[align].checkpoint.every=1 steps"};

// The number after `word` in `text`; -1 without the word.
int64_t NumberAfter(const std::string& text, const std::string& word) {
  const size_t at = text.rfind(word);
  EXPECT_NE(at, std::string::npos) << word << " in " << text;
  return at == std::string::npos ? -1 : std::atoll(text.c_str() + at + word.size());
}

struct Measured {
  int64_t peak = -1;  // as the trainer's log tells it
  double tokens = 0;  // of the step with the most
};

// One rank. The first save's snapshot is held until the second step has been made, as a slow disk would.
Measured RunAndMeasure(LocalJob* job, const std::string& stage) {
  Mutex mutex;
  CondVar changed;
  int saves = 0;
  bool late = false;
  const auto slow = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    if (operation != FileOperation::kSync || path.find("/" + stage + "/step-00000001") == std::string::npos) {
      return absl::OkStatus();
    }
    MutexLock lock(&mutex);
    const absl::Duration give_up = RealClock()->Monotonic() + absl::Minutes(5);
    while (saves < 2 && RealClock()->Monotonic() < give_up) changed.WaitFor(&mutex, absl::Seconds(1));
    late |= saves < 2;
    return absl::OkStatus();
  });
  Measured measured;
  StageRun run{.threads = 2, .files = slow.get()};
  run.on_phase = [&](Phase phase) {
    MutexLock lock(&mutex);
    saves += phase == Phase::kSave ? 1 : 0;
    changed.NotifyAll();
  };
  run.on_metric = [&](std::string_view series, double value) {
    if (series == "tokens") measured.tokens = std::max(measured.tokens, value);
  };
  testing::internal::CaptureStderr();
  const absl::Status status = job->RunStage(stage, run);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(status.ok()) << stage << ": " << status;
  EXPECT_FALSE(late) << "no second save came";
  measured.peak = NumberAfter(log, "tensors: at most");
  return measured;
}

TEST(MemoryTest, ModelShowIsWithinTenPerCentOfTheTrainersPeak) {
  train::ReuseTensorMemory();  // as vlm-trainer does
  const std::unique_ptr<LocalJob> job = NewJob("memory", kLargeModel);
  for (const spec::Stage& stage : job->job().stages) {
    if (stage.kind != spec::StageKind::kPretrain && stage.kind != spec::StageKind::kAlign) {
      ASSERT_TRUE(job->RunStage(stage.name, {}).ok()) << stage.name;
      continue;
    }
    SCOPED_TRACE(stage.name);
    const absl::StatusOr<std::string> shown =
        ModelShow({.job_file = kTinyJob, .overrides = kLargeModel, .stage = stage.name, .ranks = 1});
    ASSERT_TRUE(shown.ok()) << shown.status();
    EXPECT_GE(NumberAfter(*shown, "\nall"), 50'000'000);
    const int64_t estimated = NumberAfter(*shown, "\nat most");
    const Measured measured = RunAndMeasure(job.get(), stage.name);
    const int64_t full = int64_t{stage.training().train.micro_batch} *
                         spec::FindStage(job->job(), stage.training().data.index_stage)->index().context;
    EXPECT_GE(measured.tokens, 0.95 * static_cast<double>(full)) << "rows are not full";
    EXPECT_LE(std::abs(static_cast<double>(estimated - measured.peak)), 0.1 * static_cast<double>(measured.peak))
        << "estimated " << estimated << ", measured " << measured.peak;
    GTEST_LOG_(INFO) << stage.name << ": shown " << estimated << ", handed out " << measured.peak << ", "
                     << measured.tokens << " tokens\n"
                     << shown->substr(shown->find("memory of one of"));
    if (stage.kind == spec::StageKind::kAlign) break;
  }
  ASSERT_TRUE(RemoveTree(PosixFileSystem(), FolderOf("memory")).ok());
}

}  // namespace
}  // namespace vlm::trainer
