#include "checkpoint/client/step_writer.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <map>
#include <set>
#include <string_view>

#include "base/hooked_file_system.h"
#include "base/mutex.h"
#include "checkpoint/format/safetensors_folder.h"
#include "gmock/gmock.h"
#include "tests/unit/checkpoint/service_fixture.h"

namespace vlm::checkpoint {
namespace {

using ::testing::HasSubstr;

// Closed until Open() is called: what a disk that takes its time looks like, without sleeping.
class Gate {
 public:
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  void Pass() {
    MutexLock lock(&mutex_);
    reached_ = true;
    changed_.NotifyAll();
    while (!open_) changed_.Wait(&mutex_);
  }
  void WaitUntilReached() {
    MutexLock lock(&mutex_);
    while (!reached_) changed_.Wait(&mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  bool reached_ ABSL_GUARDED_BY(mutex_) = false;
};

FileToWrite TensorFile(const std::string& name, std::shared_ptr<const std::vector<float>> values) {
  FileToWrite file;
  file.name = name;
  file.tensors = {{"weight", DType::kF32, {values->size()}}};
  file.metadata = {{"format", "pt"}};
  file.produce_tensor = [values](const TensorEntry&, const ByteSink& sink) {
    const std::span<const std::byte> bytes = std::as_bytes(std::span(*values));
    VLM_RETURN_IF_ERROR(sink(bytes.first(bytes.size() / 2)));
    return sink(bytes.subspan(bytes.size() / 2));
  };
  return file;
}

FileToWrite PlainFile(const std::string& name, const std::string& contents) {
  FileToWrite file;
  file.name = name;
  file.contents = contents;
  return file;
}

// Refuses the first calls of some methods, as a worker does that has no place for one more, and passes the rest on.
class RefusingChannel final : public rpc::Channel {
 public:
  RefusingChannel(rpc::Channel* inner, std::map<std::string, int> refusals)
      : inner_(inner), refusals_(std::move(refusals)) {}
  void Call(std::string_view method, std::string request, const rpc::CallOptions& options, Done done) override {
    if (Refuses(std::string(method.substr(method.rfind('/') + 1)))) {
      return done(absl::ResourceExhaustedError("too many calls wait for the coordinator"));
    }
    inner_->Call(method, std::move(request), options, std::move(done));
  }
  std::unique_ptr<rpc::Stream> Open(std::string_view method, const rpc::CallOptions& options,
                                    std::shared_ptr<rpc::StreamReceiver> receiver) override {
    return inner_->Open(method, options, std::move(receiver));
  }

 private:
  bool Refuses(const std::string& method) {
    MutexLock lock(&mutex_);
    return refusals_[method]-- > 0;
  }

  rpc::Channel* const inner_;
  Mutex mutex_;
  std::map<std::string, int> refusals_ ABSL_GUARDED_BY(mutex_);  // by method; how many are still to come
};

class StepWriterTest : public ServiceFixture {
 protected:
  void SetUp() override {
    ServiceFixture::SetUp();
    StartService();
    ASSERT_TRUE(Open(1).ok());
    options_.retry_first = absl::Milliseconds(1);
    options_.retry_most = absl::Milliseconds(5);
    options_.retry_for = absl::Seconds(20);
  }
  Save BeginSave(uint64_t step, int rank = 0, int world = 1) {
    Save save;
    save.step = Step(1, step, world);
    const auto folder = client_->BeginStep(save.step);
    EXPECT_TRUE(folder.ok()) << folder.status();
    save.folder = folder.value_or("");
    save.rank = rank;
    return save;
  }
  StepWriterOptions options_;
};

TEST_F(StepWriterTest, TwoRanksWriteOneStep) {
  const auto values = std::make_shared<const std::vector<float>>(std::vector<float>{1, 2, 3, 4});
  StepWriter rank0(PosixFileSystem(), client_.get(), RealClock(), options_);
  StepWriter rank1(PosixFileSystem(), client_.get(), RealClock(), options_);
  Save save0 = BeginSave(7, 0, 2);
  save0.files = {TensorFile("llm.safetensors", values), PlainFile("config.json", "{}"),
                 PlainFile("model.safetensors.index.json", MakeSafetensorsIndex({{"weight", "llm.safetensors"}}, 16)),
                 PlainFile("tokenizer/tokenizer.json", "{}")};
  save0.wait_for_commit = true;
  SaveResult result;
  save0.done = [&](const SaveResult& done) { result = done; };
  Save save1 = BeginSave(7, 1, 2);
  save1.files = {PlainFile("optimizer.json", "state")};
  ASSERT_TRUE(rank0.Start(std::move(save0)).ok());
  ASSERT_TRUE(rank1.Start(std::move(save1)).ok());
  EXPECT_TRUE(rank1.Wait().ok());
  EXPECT_TRUE(rank0.Wait().ok());
  EXPECT_TRUE(result.committed);
  EXPECT_GT(result.bytes, 16u);
  const auto latest = client_->GetLatest(kStageUid);
  ASSERT_TRUE(latest.ok()) << latest.status();
  EXPECT_EQ(latest->files.size(), 5u);
  FolderOptions folder_options;
  for (const FileClaim& claim : latest->files) folder_options.digests[claim.name] = claim.digest;
  const auto folder = SafetensorsFolder::Open(PosixFileSystem(), latest->folder, folder_options);
  ASSERT_TRUE(folder.ok()) << folder.status();
  float third;
  ASSERT_TRUE((*folder)->Read("weight", 8, std::as_writable_bytes(std::span(&third, 1))).ok());
  EXPECT_EQ(third, 3);
}

TEST_F(StepWriterTest, TrainingGoesOnWhileASlowDiskWrites) {
  Gate gate;
  const auto files = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string&) {
    if (operation == FileOperation::kSync) gate.Pass();
    return absl::OkStatus();
  });
  StepWriter writer(files.get(), client_.get(), RealClock(), options_);
  Save save = BeginSave(1);
  save.files = {PlainFile("a", "bytes")};
  ASSERT_TRUE(writer.Start(std::move(save)).ok());
  gate.WaitUntilReached();
  int training_steps = 0;
  for (; training_steps < 100 && writer.saves_in_flight() == 1; ++training_steps) {
  }
  EXPECT_EQ(training_steps, 100);  // all of them while the save was open
  EXPECT_EQ(client_->GetStep(kStageUid, 1)->status, StepStatus::kWriting);
  gate.Open();
  EXPECT_TRUE(writer.Wait().ok());
  EXPECT_EQ(client_->GetStep(kStageUid, 1)->status, StepStatus::kComplete);
}

TEST_F(StepWriterTest, AFullDiskGivesTheStepUpAndLeavesNothing) {
  std::atomic<bool> full{true};
  const auto files = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    const bool fails = full && operation == FileOperation::kAppend && path.find("second") != std::string::npos;
    return fails ? absl::ResourceExhaustedError("write " + path + ": No space left on device") : absl::OkStatus();
  });
  StepWriter writer(files.get(), client_.get(), RealClock(), options_);
  Save save = BeginSave(1);
  const std::string folder = save.folder;
  save.files = {PlainFile("first", "bytes"), PlainFile("second", "bytes")};
  ASSERT_TRUE(writer.Start(std::move(save)).ok());
  const absl::Status failed = writer.Wait();
  EXPECT_TRUE(absl::IsResourceExhausted(failed)) << failed;
  EXPECT_THAT(std::string(failed.message()), HasSubstr("No space left"));
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->BeginStep(Step(1, 1)).status()));
  full = false;
  Save next = BeginSave(2);
  next.files = {PlainFile("second", "bytes")};
  ASSERT_TRUE(writer.Start(std::move(next)).ok());
  EXPECT_TRUE(writer.Wait().ok());  // the error was told once; training and saving went on
  EXPECT_EQ(client_->GetLatest(kStageUid)->step, 2u);
  // Removals have an executor of their own; the row goes after the folder.
  const absl::Duration until = RealClock()->Monotonic() + absl::Minutes(1);
  while (client_->GetStep(kStageUid, 1).ok() && RealClock()->Monotonic() < until) sched_yield();
  EXPECT_FALSE(std::filesystem::exists(folder));
}

// A step that nobody writes any more must not keep one of the stage's two places for the rest of the attempt.
TEST_F(StepWriterTest, ARefusedPartGivesTheStepUp) {
  StepWriter writer(PosixFileSystem(), client_.get(), RealClock(), options_);
  for (uint64_t step = 1; step <= kWritingStepsMax + 1; ++step) {
    Save save = BeginSave(step);
    save.written = {{"lost.bin", 5, std::string(64, '0')}};  // the service looks for it when the part is reported
    ASSERT_TRUE(writer.Start(std::move(save)).ok());
    const absl::Status refused = writer.Wait();
    EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
    EXPECT_TRUE(absl::IsFailedPrecondition(client_->BeginStep(Step(1, step)).status())) << step;
  }
}

TEST_F(StepWriterTest, AWorkerWithTooManyCallsIsAskedAgain) {
  RefusingChannel channel(channel_.get(), {{"AddPart", 3}, {"DeleteStep", 3}});
  const CheckpointClient client(&channel, {.deadline = absl::Seconds(30)});
  StepWriter writer(PosixFileSystem(), &client, RealClock(), options_);
  Save kept = BeginSave(1);
  kept.files = {PlainFile("a", "bytes")};
  ASSERT_TRUE(writer.Start(std::move(kept)).ok());
  EXPECT_TRUE(writer.Wait().ok());
  EXPECT_EQ(client_->GetStep(kStageUid, 1)->status, StepStatus::kComplete);
  Save lost = BeginSave(2);
  lost.written = {{"lost.bin", 5, std::string(64, '0')}};
  ASSERT_TRUE(writer.Start(std::move(lost)).ok());
  EXPECT_TRUE(absl::IsDataLoss(writer.Wait()));
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->BeginStep(Step(1, 2)).status())) << "it was given up in the end";
}

TEST_F(StepWriterTest, ReportsWhenTheServiceComesBack) {
  Gate gate;
  const auto files = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string&) {
    if (operation == FileOperation::kSync) gate.Pass();
    return absl::OkStatus();
  });
  StepWriter writer(files.get(), client_.get(), RealClock(), options_);
  Save save = BeginSave(1);
  save.files = {PlainFile("a", "bytes")};
  ASSERT_TRUE(writer.Start(std::move(save)).ok());
  gate.WaitUntilReached();
  StopService();
  gate.Open();
  StartService();
  EXPECT_TRUE(writer.Wait().ok());
  EXPECT_EQ(client_->GetStep(kStageUid, 1)->status, StepStatus::kComplete);
}

TEST_F(StepWriterTest, AServiceThatStaysAwayIsAnErrorInTheEnd) {
  options_.retry_for = absl::Milliseconds(20);
  StepWriter writer(PosixFileSystem(), client_.get(), RealClock(), options_);
  Save save = BeginSave(1);
  save.files = {PlainFile("a", "bytes")};
  StopService();
  ASSERT_TRUE(writer.Start(std::move(save)).ok());
  EXPECT_TRUE(absl::IsUnavailable(writer.Wait()));
}

// A rank that writes a hundred gigabytes must not look as if it stood still.
TEST_F(StepWriterTest, TellsProgressWhileAFileIsWritten) {
  constexpr size_t kBytes = 40 << 20;
  std::atomic<int> advanced = 0;
  options_.advance = [&] { ++advanced; };
  Mutex mutex;
  std::map<std::string, std::set<int>> seen;  // by file, at its appends
  const auto files = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    MutexLock lock(&mutex);
    if (operation == FileOperation::kAppend) seen[path.substr(path.rfind('/') + 1)].insert(advanced);
    return absl::OkStatus();
  });
  StepWriter writer(files.get(), client_.get(), RealClock(), options_);
  Save save = BeginSave(1);
  const auto values = std::make_shared<const std::vector<float>>(kBytes / sizeof(float));
  FileToWrite tensor = TensorFile("weights", values);
  tensor.produce_tensor = [values](const TensorEntry&, const ByteSink& sink) {
    return sink(std::as_bytes(std::span(*values)));  // as a trainer does: a tensor at a time
  };
  save.files = {std::move(tensor), PlainFile("plain", std::string(kBytes, 'x'))};
  ASSERT_TRUE(writer.Start(std::move(save)).ok());
  ASSERT_TRUE(writer.Wait().ok());
  EXPECT_GE(seen["weights.tmp"].size(), 3u);
  EXPECT_GE(seen["plain.tmp"].size(), 3u);
}

TEST_F(StepWriterTest, WaitsForOtherRanksAsLongAsTheServiceAnswers) {
  options_.retry_for = absl::Milliseconds(20);
  Mutex mutex;
  CondVar changed;
  int told = 0;
  bool over = false;
  options_.advance = [&] {
    MutexLock lock(&mutex);
    ++told;
    changed.NotifyAll();
  };
  StepWriter rank0(PosixFileSystem(), client_.get(), RealClock(), options_);
  Save save0 = BeginSave(1, 0, 2);
  save0.files = {PlainFile("a", "bytes")};
  save0.wait_for_commit = true;
  save0.done = [&](const SaveResult&) {
    MutexLock lock(&mutex);
    over = true;
    changed.NotifyAll();
  };
  const absl::Duration begin = RealClock()->Monotonic();
  ASSERT_TRUE(rank0.Start(std::move(save0)).ok());
  {
    MutexLock lock(&mutex);
    while (!over && (told < 10 || RealClock()->Monotonic() - begin < 5 * options_.retry_for)) changed.Wait(&mutex);
    EXPECT_FALSE(over) << "the other rank still writes";
  }
  options_.advance = nullptr;
  StepWriter rank1(PosixFileSystem(), client_.get(), RealClock(), options_);
  Save save1 = BeginSave(1, 1, 2);
  save1.files = {PlainFile("b", "bytes")};
  ASSERT_TRUE(rank1.Start(std::move(save1)).ok());
  EXPECT_TRUE(rank1.Wait().ok());
  EXPECT_TRUE(rank0.Wait().ok());
}

TEST_F(StepWriterTest, AReplacedAttemptIsToldSo) {
  StepWriter writer(PosixFileSystem(), client_.get(), RealClock(), options_);
  Save save = BeginSave(1, 0, 2);
  save.files = {PlainFile("a", "bytes")};
  save.wait_for_commit = true;  // the other rank's part never comes
  ASSERT_TRUE(writer.Start(std::move(save)).ok());
  ASSERT_TRUE(Open(2).ok());
  const absl::Status refused = writer.Wait();
  // Its files may be gone already, or its report comes too late.
  EXPECT_TRUE(absl::IsFailedPrecondition(refused) || absl::IsNotFound(refused)) << refused;
}

TEST_F(StepWriterTest, TheFolderOfAReplacedAttemptIsNotMadeAgain) {
  StepWriter writer(PosixFileSystem(), client_.get(), RealClock(), options_);
  for (const char* const name : {"a", "below/a"}) {
    Save save = BeginSave(name == std::string("a") ? 1 : 2);
    const std::string folder = save.folder;
    save.files = {PlainFile(name, "bytes")};
    std::filesystem::remove_all(folder);  // as the service does for the attempt that follows
    ASSERT_TRUE(writer.Start(std::move(save)).ok());
    EXPECT_TRUE(absl::IsNotFound(writer.Wait())) << name;
    EXPECT_FALSE(std::filesystem::exists(folder)) << name;
  }
}

TEST_F(StepWriterTest, HoldsNoMoreSnapshotsThanItsLimit) {
  Gate gate;
  const auto files = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string&) {
    if (operation == FileOperation::kSync) gate.Pass();
    return absl::OkStatus();
  });
  options_.bytes_in_flight_max = 100;
  StepWriter writer(files.get(), client_.get(), RealClock(), options_);
  Save first = BeginSave(1);
  first.files = {PlainFile("a", "bytes")};
  first.snapshot_bytes = 60;
  ASSERT_TRUE(writer.Start(std::move(first)).ok());
  Save second = BeginSave(2);
  second.files = {PlainFile("a", "bytes")};
  second.snapshot_bytes = 41;
  EXPECT_TRUE(writer.HasRoom(40));
  EXPECT_FALSE(writer.HasRoom(41));
  EXPECT_TRUE(absl::IsResourceExhausted(writer.Start(second)));
  gate.Open();
  EXPECT_TRUE(writer.Wait().ok());
  second.snapshot_bytes = 1000;  // more than the limit: alone it may
  EXPECT_TRUE(writer.HasRoom(1000));
  EXPECT_TRUE(writer.Start(second).ok());
  EXPECT_TRUE(writer.Wait().ok());
}

TEST_F(StepWriterTest, RefusesMalformedSavesAndWrongProducers) {
  StepWriter writer(PosixFileSystem(), client_.get(), RealClock(), options_);
  EXPECT_TRUE(absl::IsInvalidArgument(writer.Start(Save())));
  Save twice = BeginSave(1);
  twice.files = {PlainFile("a", "1"), PlainFile("a", "2")};
  EXPECT_TRUE(absl::IsInvalidArgument(writer.Start(twice)));
  Save wrong = std::move(twice);
  FileToWrite file = TensorFile("a.safetensors", std::make_shared<const std::vector<float>>(4));
  file.produce_tensor = [](const TensorEntry&, const ByteSink& sink) { return sink(std::as_bytes(std::span("abc"))); };
  wrong.files = {file};
  ASSERT_TRUE(writer.Start(std::move(wrong)).ok());
  EXPECT_THAT(std::string(writer.Wait().message()), HasSubstr("gave 4 bytes of 16"));
}

}  // namespace
}  // namespace vlm::checkpoint
