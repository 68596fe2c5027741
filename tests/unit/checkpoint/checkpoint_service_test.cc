// The service on real files, a real RocksDB and threads of its own, called through the client.
#include "checkpoint/service/checkpoint_service.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>

#include "absl/strings/str_cat.h"
#include "base/hooked_file_system.h"
#include "gmock/gmock.h"
#include "tests/unit/checkpoint/service_fixture.h"

namespace vlm::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(ServiceFixture, KeepsItsCatalogOverARestart) {
  StartService();
  EXPECT_EQ(Open(1)->step, 0u);
  const StepInfo saved = SaveStep(1, 500, /*final=*/true);
  EXPECT_EQ(saved.folder, root_ + "/jobs/job-1/sft/step-00000500-f00000001");
  EXPECT_TRUE(std::filesystem::exists(saved.folder + "/rank-0.bin.sum"));
  const auto artifact = client_->CommitArtifact(kStageUid, 1, "model");
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_EQ(artifact->folder, saved.folder);

  StopService();
  StartService();
  const auto step = client_->GetStep(kStageUid, 500);
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_EQ(step->status, StepStatus::kComplete);
  EXPECT_THAT(step->holds, ElementsAre("RESUME(1)", "OUTPUT"));
  EXPECT_EQ(step->files, saved.files);
  EXPECT_GT(step->verified_at, absl::InfinitePast());
  EXPECT_TRUE(Open(2)->final);
  EXPECT_EQ(client_->CommitArtifact(kStageUid, 2, "model")->digest, artifact->digest);
  EXPECT_EQ(client_->ListStepsOfJob("job-1")->size(), 1u);
  EXPECT_EQ(client_->ListStepsOfStage(kStageUid)->front().files.size(), 0u);  // lists are short
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->DeleteStep(kStageUid, 500)));
}

TEST_F(ServiceFixture, FindsRotOnTheRealDisk) {
  StartService();
  ASSERT_TRUE(Open(1).ok());
  const StepInfo saved = SaveStep(1, 1);
  {
    std::fstream file(saved.folder + "/rank-0.bin", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(3);
    file.put('#');
  }
  const auto verified = client_->VerifyStep(kStageUid, 1, absl::Seconds(30));
  ASSERT_TRUE(verified.ok()) << verified.status();
  ASSERT_EQ(verified->damages.size(), 1u);
  EXPECT_EQ(verified->damages[0].file, "rank-0.bin");
  EXPECT_EQ(verified->damages[0].chunk, 0);
  const auto step = client_->GetStep(kStageUid, 1);
  EXPECT_EQ(step->status, StepStatus::kDamaged);
  EXPECT_THAT(step->damage, HasSubstr("rank-0.bin, chunk 0"));
  EXPECT_TRUE(absl::IsNotFound(client_->GetLatest(kStageUid).status()));
}

TEST_F(ServiceFixture, APersonsVerificationHoldsUpNoStage) {
  StartService();
  ASSERT_TRUE(Open(1).ok());
  SaveStep(1, 1);
  SaveStep(1, 2, /*final=*/true);
  std::promise<void> gate;
  auditor_->Post([opened = gate.get_future().share()] { opened.wait(); });  // a terabyte for somebody
  v1::VerifyStepRequest request;
  request.set_stage_uid(kStageUid);
  request.set_step(1);
  std::atomic<bool> answered = false;
  std::promise<absl::Status> answer;
  channel_->Call("/vlm.v1.CheckpointService/VerifyStep", request.SerializeAsString(), {.deadline = absl::Seconds(60)},
                 [&](const absl::StatusOr<std::string>& bytes) {
                   answered = true;
                   answer.set_value(bytes.status());
                 });
  EXPECT_TRUE(client_->CommitArtifact(kStageUid, 1, "model").ok());
  request.set_step(2);
  request.set_before_reuse(true);
  const auto reused = rpc::CallAndWait<v1::VerifyStepResponse>(channel_.get(), "/vlm.v1.CheckpointService/VerifyStep",
                                                               request, {.deadline = absl::Seconds(30)});
  EXPECT_TRUE(reused.ok()) << reused.status();
  EXPECT_FALSE(answered);  // the person's stands in its own line
  gate.set_value();
  EXPECT_TRUE(answer.get_future().get().ok());
}

TEST_F(ServiceFixture, DeletesFilesAndRow) {
  StartService();
  ASSERT_TRUE(Open(1).ok());
  const StepInfo old = SaveStep(1, 1);
  SaveStep(1, 2);
  ASSERT_TRUE(client_->DeleteStep(kStageUid, 1).ok());
  EXPECT_FALSE(std::filesystem::exists(old.folder));
  EXPECT_TRUE(absl::IsNotFound(client_->GetStep(kStageUid, 1).status()));
  EXPECT_EQ(client_->GetLatest(kStageUid)->step, 2u);
}

// Held back by a hook of the file system until it is opened.
class Barrier {
 public:
  void Pass() {
    reached_ = true;
    opened_.wait();
  }
  void Open() { promise_.set_value(); }
  void WaitUntilReached() const {
    while (!reached_) sched_yield();
  }

 private:
  std::atomic<bool> reached_ = false;
  std::promise<void> promise_;
  const std::shared_future<void> opened_ = promise_.get_future().share();
};

// One stage's step of a hundred gigabytes is unlinked: the saves of all others go on.
TEST_F(ServiceFixture, ALargeRemovalHoldsUpNoSave) {
  Barrier unlink;
  const auto slow = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    if (operation == FileOperation::kRemove && path.find("step-00000001") != std::string::npos) unlink.Pass();
    return absl::OkStatus();
  });
  files_ = slow.get();
  StartService();
  ASSERT_TRUE(Open(1).ok());
  const auto given_up = client_->BeginStep(Step(1, 1));
  ASSERT_TRUE(given_up.ok()) << given_up.status();
  ASSERT_TRUE(WriteDurableFile(PosixFileSystem(), *given_up + "/rank-0.bin", "weights").ok());
  ASSERT_TRUE(client_->AbortStep(kStageUid, 1, 1).ok());
  const auto next = client_->BeginStep(Step(1, 2));
  EXPECT_TRUE(next.ok()) << next.status();
  if (next.ok()) {
    EXPECT_EQ(SaveStep(1, 2).status, StepStatus::kComplete);
  }
  EXPECT_TRUE(std::filesystem::exists(*given_up + "/rank-0.bin"));
  unlink.Open();
  while (client_->GetStep(kStageUid, 1).ok()) sched_yield();
  EXPECT_FALSE(std::filesystem::exists(*given_up));
  StopService();  // before the file system that it uses
}

// A folder that is still to be made when its step is given up is made first, and so removed.
TEST_F(ServiceFixture, ARemovalComesAfterTheFoldersMaking) {
  Barrier make;
  const auto slow = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    if (operation != FileOperation::kMakeDirectory || !path.ends_with("step-00000001-f00000001")) {
      return absl::OkStatus();
    }
    make.Pass();
    return absl::OkStatus();
  });
  files_ = slow.get();
  StartService();
  ASSERT_TRUE(Open(1).ok());
  v1::BeginStepRequest begin;
  begin.set_stage_uid(kStageUid);
  begin.set_fence(1);
  begin.set_step(1);
  begin.set_world(1);
  std::promise<absl::Status> begun;
  channel_->Call("/vlm.v1.CheckpointService/BeginStep", begin.SerializeAsString(), {.deadline = absl::Seconds(60)},
                 [&](const absl::StatusOr<std::string>& bytes) { begun.set_value(bytes.status()); });
  make.WaitUntilReached();
  EXPECT_TRUE(client_->AbortStep(kStageUid, 1, 1).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(begun.get_future().get()));
  EXPECT_TRUE(client_->GetStep(kStageUid, 1).ok()) << "its row stays until its folder is gone";
  make.Open();
  while (client_->GetStep(kStageUid, 1).ok()) sched_yield();
  EXPECT_FALSE(std::filesystem::exists(root_ + "/jobs/job-1/sft/step-00000001-f00000001"));
  StopService();
}

TEST_F(ServiceFixture, RefusesRootsThatAreNotItsOwn) {
  StartService();
  root_ = folder_ + "/elsewhere";
  EXPECT_TRUE(absl::IsPermissionDenied(Open(1).status())) << Open(1).status();
  EXPECT_FALSE(std::filesystem::exists(root_));
  std::filesystem::create_directory_symlink(folder_, folder_ + "/artifacts/out");  // a way out of the allowed root
  root_ = folder_ + "/artifacts/out/elsewhere";
  EXPECT_TRUE(absl::IsPermissionDenied(Open(1).status())) << Open(1).status();
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/elsewhere"));
  root_ = folder_ + "/artifacts/foreign";
  std::filesystem::create_directories(root_);
  std::ofstream(root_ + "/CATALOG") << "vlm-catalog 1 00000000000000000000000000000000\n";
  const absl::Status foreign = Open(1).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(foreign)) << foreign;
  EXPECT_THAT(std::string(foreign.message()), HasSubstr("another catalog"));
}

TEST_F(ServiceFixture, RefusesAStepFolderBehindALink) {
  StartService();
  ASSERT_TRUE(Open(1).ok());
  std::filesystem::create_directories(root_ + "/jobs/job-1");
  std::filesystem::create_directory_symlink(folder_, root_ + "/jobs/job-1/sft");
  const auto begun = client_->BeginStep(Step(1, 1));
  EXPECT_TRUE(absl::IsPermissionDenied(begun.status())) << begun.status();
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/step-00000001-f00000001"));
}

TEST_F(ServiceFixture, ALinkInPlaceOfAFileIsNotCommitted) {
  StartService();
  ASSERT_TRUE(Open(1).ok());
  const auto folder = client_->BeginStep(Step(1, 1));
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto written = WriteDurableFile(PosixFileSystem(), *folder + "/a", "bytes");
  ASSERT_TRUE(written.ok()) << written.status();
  std::filesystem::rename(*folder + "/a", folder_ + "/outside");
  std::filesystem::create_symlink(folder_ + "/outside", *folder + "/a");
  const auto added = client_->AddPart({kStageUid, 1, 1, 0, {{"a", written->bytes, written->digest}}});
  EXPECT_TRUE(absl::IsDataLoss(added.status())) << added.status();
}

TEST_F(ServiceFixture, RefusesACatalogOfANewerProgram) {
  {
    const auto store = store::OpenRocksDbMetaStore({database_, CatalogFamilies()});
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_TRUE((*store)
                    ->Commit({{"meta", "format", "2"}, {"meta", "catalog_uuid", std::string(16, 'u')}},
                             store::Durability::kSynced)
                    .ok());
  }
  const absl::Status refused = TryStartService();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("newer program"));
}

// What is being unlinked counts as free for the save that needs its space.
TEST(CheckpointService, ASaveWithoutSpaceWaitsForTheRemovalsBeforeIt) {
  constexpr uint64_t kBytes = 1000;
  Barrier unlink;
  SimulatedFileSystem disk;
  ASSERT_TRUE(disk.MakeDirectory("/data").ok());
  std::atomic<int> looks = 0;  // at the root, before each work on a folder
  disk.SetHook([&](FileOperation operation, const std::string& path) {
    if (operation == FileOperation::kRemove && path.ends_with("/large")) unlink.Pass();
    if (operation == FileOperation::kOpen && path == "/data/CATALOG") ++looks;
    return absl::OkStatus();
  });
  store::SimulatedMetaStore store(CatalogFamilies());
  CheckpointServiceOptions options;
  options.allowed_roots = {"/data"};
  options.new_catalog_uuid = std::string(16, 'u');
  options.on_store_failure = [](const absl::Status& status) { FAIL() << status; };
  StoppableExecutor actor("actor"), work("disk"), remover("remover"), network("network");
  auto service = CheckpointService::Create(options, {.store = &store,
                                                     .files = &disk,
                                                     .clock = RealClock(),
                                                     .actor = &actor,
                                                     .disk = &work,
                                                     .verifier = &work,
                                                     .remover = &remover});
  ASSERT_TRUE(service.ok()) << service.status();
  rpc::ServiceRegistry registry;
  (*service)->Register(&registry);
  rpc::MemoryTransport transport(&network);
  transport.Serve(std::move(registry));
  const std::unique_ptr<rpc::Channel> channel = transport.Connect();
  const CheckpointClient client(channel.get(), {.deadline = absl::Seconds(60)});
  ASSERT_TRUE(client.OpenAttempt({kStageUid, 1, "job-1", "sft", "/data"}).ok());
  StepToBegin step;
  step.stage_uid = kStageUid;
  step.fence = step.step = 1;
  const auto first = client.BeginStep(step);
  ASSERT_TRUE(first.ok()) << first.status();
  disk.SetCapacity(3 * kBytes);
  {
    const auto file = disk.Create(*first + "/large");
    ASSERT_TRUE(file.ok() && (*file)->Append(std::vector<std::byte>(2 * kBytes)).ok());
  }
  ASSERT_TRUE(client.AbortStep(kStageUid, 1, 1).ok());
  unlink.WaitUntilReached();
  const int looks_before = looks;
  v1::BeginStepRequest next;
  next.set_stage_uid(kStageUid);
  next.set_fence(1);
  next.set_step(2);
  next.set_world(1);
  next.set_reserve_bytes(kBytes);
  std::promise<absl::Status> begun;
  channel->Call("/vlm.v1.CheckpointService/BeginStep", next.SerializeAsString(), {.deadline = absl::Seconds(60)},
                [&](const absl::StatusOr<std::string>& bytes) { begun.set_value(bytes.status()); });
  while (looks == looks_before) sched_yield();
  std::promise<void> tried;
  work.Post([&] { tried.set_value(); });  // behind the first try to make the folder
  tried.get_future().wait();
  unlink.Open();
  const absl::Status made = begun.get_future().get();
  EXPECT_TRUE(made.ok()) << made;
  transport.Stop();
  for (StoppableExecutor* executor : {&network, &remover, &work, &actor}) executor->Stop();
}

TEST(CheckpointService, AFailedStoreEndsTheServiceAndNothingIsAnswered) {
  SimulatedFileSystem disk;
  ASSERT_TRUE(disk.MakeDirectory("/data").ok());
  store::SimulatedMetaStore store(CatalogFamilies());
  const std::unique_ptr<Executor> executor = NewThreadExecutor("all");
  absl::Status failure;
  CheckpointServiceOptions options;
  options.allowed_roots = {"/data"};
  options.new_catalog_uuid = std::string(16, 'u');
  options.on_store_failure = [&](const absl::Status& status) { failure = status; };
  const auto service =
      CheckpointService::Create(options, {&store, &disk, RealClock(), executor.get(), executor.get(), executor.get()});
  ASSERT_TRUE(service.ok()) << service.status();
  rpc::ServiceRegistry registry;
  (*service)->Register(&registry);
  rpc::MemoryTransport transport(executor.get());
  transport.Serve(std::move(registry));
  const std::unique_ptr<rpc::Channel> channel = transport.Connect();
  const CheckpointClient client(channel.get(),
                                {.deadline = absl::Milliseconds(300), .wait_for_ready = false, .metadata = {}});
  store.SetCapacity(0);
  const auto opened = client.OpenAttempt({kStageUid, 1, "job-1", "sft", "/data"});
  EXPECT_TRUE(absl::IsDeadlineExceeded(opened.status())) << opened.status();
  EXPECT_TRUE(absl::IsResourceExhausted(failure)) << failure;
}

}  // namespace
}  // namespace vlm::checkpoint
