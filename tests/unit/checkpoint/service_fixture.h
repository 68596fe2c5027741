// A checkpoint service on real files and RocksDB, its client, and a place to slow the files down.
#ifndef VLM_TESTS_UNIT_CHECKPOINT_SERVICE_FIXTURE_H_
#define VLM_TESTS_UNIT_CHECKPOINT_SERVICE_FIXTURE_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/executor.h"
#include "base/file_system.h"
#include "base/simulated_file_system.h"
#include "base/stoppable_executor.h"
#include "checkpoint/client/checkpoint_client.h"
#include "checkpoint/service/checkpoint_service.h"
#include "rpc/memory_transport.h"
#include "store/rocksdb_meta_store.h"
#include "store/simulated_meta_store.h"

namespace vlm::checkpoint {

inline const std::string kStageUid = "0123456789abcdef";

class ServiceFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(::testing::TempDir(), "checkpoint_",
                           ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_ + "/artifacts");
    root_ = folder_ + "/artifacts";
    database_ = folder_ + "/catalog";
    transport_executor_ = NewThreadExecutor("transport");
    transport_ = std::make_unique<rpc::MemoryTransport>(transport_executor_.get());
    channel_ = transport_->Connect();
    client_ = std::make_unique<CheckpointClient>(
        channel_.get(), rpc::CallOptions{.deadline = absl::Seconds(30), .wait_for_ready = false, .metadata = {}});
  }

  void TearDown() override {
    StopService();
    std::filesystem::remove_all(folder_);
  }

  absl::Status TryStartService() {
    VLM_ASSIGN_OR_RETURN(store_, store::OpenRocksDbMetaStore({database_, CatalogFamilies()}));
    actor_ = std::make_unique<StoppableExecutor>("catalog");
    disk_ = std::make_unique<StoppableExecutor>("disk");
    verifier_ = std::make_unique<StoppableExecutor>("verifier");
    auditor_ = std::make_unique<StoppableExecutor>("auditor");
    remover_ = std::make_unique<StoppableExecutor>("remover");
    CheckpointServiceOptions options;
    options.allowed_roots = {folder_ + "/artifacts"};
    options.new_catalog_uuid = "catalog-uuid-16b";
    options.on_store_failure = [](const absl::Status& status) { FAIL() << status; };
    VLM_ASSIGN_OR_RETURN(
        service_,
        CheckpointService::Create(std::move(options), {store_.get(), files_, RealClock(), actor_.get(), disk_.get(),
                                                       verifier_.get(), auditor_.get(), remover_.get()}));
    rpc::ServiceRegistry registry;
    service_->Register(&registry);
    transport_->Serve(std::move(registry));
    return absl::OkStatus();
  }
  void StartService() {
    const absl::Status started = TryStartService();
    ASSERT_TRUE(started.ok()) << started;
  }
  void StopService() {
    transport_->Stop();
    for (const auto* executor : {&auditor_, &verifier_, &disk_, &remover_, &actor_}) {
      if (*executor != nullptr) (*executor)->Stop();  // all before the first is gone: they post to each other
    }
    for (auto* executor : {&auditor_, &verifier_, &disk_, &remover_, &actor_}) executor->reset();
    service_.reset();
    store_.reset();
  }

  absl::StatusOr<OpenedAttempt> Open(uint64_t fence) {
    return client_->OpenAttempt({kStageUid, fence, "job-1", "sft", root_});
  }
  static StepToBegin Step(uint64_t fence, uint64_t step, int world = 1, bool final = false) {
    StepToBegin begin;
    begin.stage_uid = kStageUid;
    begin.fence = fence;
    begin.step = step;
    begin.world = world;
    begin.final = final;
    return begin;
  }
  // One rank's whole step, without the asynchronous writer.
  StepInfo SaveStep(uint64_t fence, uint64_t step, bool final = false) {
    const auto folder = client_->BeginStep(Step(fence, step, 1, final));
    EXPECT_TRUE(folder.ok()) << folder.status();
    const auto written =
        WriteDurableFile(PosixFileSystem(), *folder + "/rank-0.bin", absl::StrCat("weights of ", step));
    EXPECT_TRUE(written.ok()) << written.status();
    const auto added = client_->AddPart({kStageUid, fence, step, 0, {{"rank-0.bin", written->bytes, written->digest}}});
    EXPECT_TRUE(added.ok() && *added) << added.status();
    return client_->GetStep(kStageUid, step).value_or(StepInfo());
  }

  std::string folder_, root_, database_;
  FileSystem* files_ = PosixFileSystem();  // of the service; another one is given before it starts
  std::unique_ptr<Executor> transport_executor_;
  std::unique_ptr<rpc::MemoryTransport> transport_;
  std::unique_ptr<rpc::Channel> channel_;
  std::unique_ptr<CheckpointClient> client_;
  std::unique_ptr<store::MetaStore> store_;
  std::unique_ptr<StoppableExecutor> actor_, disk_, verifier_, auditor_, remover_;
  std::unique_ptr<CheckpointService> service_;
};

}  // namespace vlm::checkpoint

#endif  // VLM_TESTS_UNIT_CHECKPOINT_SERVICE_FIXTURE_H_
