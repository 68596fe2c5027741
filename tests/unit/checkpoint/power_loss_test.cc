// Power lost at every point of whole saves, commits and the publishing: the real writers, service and catalog over a
// disk and a store in memory. Before each operation that changes either, and for each suffix of what was not synced,
// the machine that would come up again is kept; then each of them is started.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/executor.h"
#include "base/mutex.h"
#include "base/simulated_file_system.h"
#include "checkpoint/client/carried_files.h"
#include "checkpoint/client/step_writer.h"
#include "checkpoint/service/checkpoint_service.h"
#include "rpc/memory_transport.h"
#include "store/simulated_meta_store.h"

namespace vlm::checkpoint {
namespace {

const std::string kUid = "0123456789abcdef";
constexpr uint64_t kStepsBetweenSaves = 10;
constexpr uint64_t kLastStep = 40;
constexpr int kWorld = 2;

using Rows = std::vector<Mutation>;

// A store that says when its rows are about to change.
class TellingStore final : public store::MetaStore {
 public:
  explicit TellingStore(const Rows& rows) : inner_(CatalogFamilies()) {
    if (!rows.empty()) VLM_CHECK(inner_.Commit(rows, store::Durability::kSynced).ok(), "rows of a catalog");
  }
  absl::Status Commit(const std::vector<Mutation>& mutations, store::Durability durability) override {
    VLM_CHECK(durability == store::Durability::kSynced, "the catalog syncs every batch, so that no tail can be lost");
    if (before_commit) before_commit();
    return inner_.Commit(mutations, durability);
  }
  absl::StatusOr<std::optional<std::string>> Get(std::string_view family, std::string_view key) const override {
    return inner_.Get(family, key);
  }
  absl::Status ScanFrom(std::string_view family, std::string_view prefix, std::string_view first,
                        const Visitor& visitor) const override {
    return inner_.ScanFrom(family, prefix, first, visitor);
  }
  Rows All() const {
    Rows rows;
    for (const std::string& family : CatalogFamilies()) {
      const absl::Status scanned = Scan(family, "", [&](std::string_view key, std::string_view value) {
        rows.push_back({family, std::string(key), std::string(value)});
        return true;
      });
      VLM_CHECK(scanned.ok(), scanned.ToString());
    }
    return rows;
  }
  std::function<void()> before_commit;

 private:
  store::SimulatedMetaStore inner_;
};

// A machine with its disk, its catalog and the service over them.
class Machine {
 public:
  Machine(std::unique_ptr<SimulatedFileSystem> disk, const Rows& rows)
      : disk_(std::move(disk)), store_(rows), executor_(NewThreadExecutor("machine")), transport_(executor_.get()) {
    CheckpointServiceOptions options;
    options.allowed_roots = {"/data"};
    options.new_catalog_uuid = "catalog-uuid-16b";
    options.on_store_failure = [](const absl::Status& status) { VLM_CHECK(false, status.ToString()); };
    auto service = CheckpointService::Create(options, {&store_, disk_.get(), RealClock(), executor_.get(),
                                                       executor_.get(), executor_.get(), executor_.get()});
    VLM_CHECK(service.ok(), service.status().ToString());
    service_ = *std::move(service);
    rpc::ServiceRegistry registry;
    service_->Register(&registry);
    transport_.Serve(std::move(registry));
    channel_ = transport_.Connect();
    client_ = std::make_unique<CheckpointClient>(
        channel_.get(), rpc::CallOptions{.deadline = absl::Seconds(60), .wait_for_ready = false, .metadata = {}});
  }
  ~Machine() {
    transport_.Stop();
    executor_.reset();
  }

  // Waits until the service has done what follows from its last answer: an effect and its result, twice over.
  void Settle() {
    for (int i = 0; i < 6; ++i) {
      std::promise<void> done;
      executor_->Post([&done] { done.set_value(); });
      done.get_future().wait();
    }
  }

  absl::StatusOr<OpenedAttempt> Open(uint64_t fence) {
    return client_->OpenAttempt({kUid, fence, "job-1", "sft", "/data", /*keep_last=*/1});
  }
  std::vector<std::string> Folders() {
    return disk_->List("/data/jobs/job-1/sft").value_or(std::vector<std::string>());
  }

  SimulatedFileSystem* disk() { return disk_.get(); }
  TellingStore* store() { return &store_; }
  const CheckpointClient& client() const { return *client_; }

 private:
  const std::unique_ptr<SimulatedFileSystem> disk_;
  TellingStore store_;
  std::unique_ptr<Executor> executor_;
  rpc::MemoryTransport transport_;
  std::unique_ptr<CheckpointService> service_;
  std::unique_ptr<rpc::Channel> channel_;
  std::unique_ptr<CheckpointClient> client_;
};

// The moment before one operation.
struct Moment {
  std::string operation;
  std::vector<std::unique_ptr<SimulatedFileSystem>> disks;  // with 0, 1, ... of the unsynced operations kept
  Rows rows;
  uint64_t acknowledged = 0;  // the last step whose commit a rank was told of
};

FileToWrite Tensors(const std::string& name, float value) {
  FileToWrite file;
  file.name = name;
  file.tensors = {{"a", DType::kF32, {64}}, {"b", DType::kF32, {64}}};
  file.produce_tensor = [values = std::vector<float>(64, value)](const TensorEntry&, const ByteSink& sink) {
    return sink(std::as_bytes(std::span(values)));
  };
  return file;
}

class PowerLossTest : public ::testing::Test {
 protected:
  PowerLossTest() : machine_(NewDisk(), {}) {
    machine_.disk()->SetHook([this](FileOperation operation, const std::string& path) {
      const bool reads = operation == FileOperation::kOpen || operation == FileOperation::kRead ||
                         operation == FileOperation::kList || operation == FileOperation::kStat;
      if (!reads) Keep(absl::StrCat("file operation ", static_cast<int>(operation), " of ", path));
      return absl::OkStatus();
    });
    machine_.store()->before_commit = [this] { Keep("commit of the store"); };
  }

  static std::unique_ptr<SimulatedFileSystem> NewDisk() {
    auto disk = std::make_unique<SimulatedFileSystem>();
    VLM_CHECK(disk->MakeDirectory("/data").ok() && disk->SyncDirectory("/").ok(), "cannot make /data");
    return disk;
  }

  void Keep(const std::string& operation) {
    Moment moment;
    moment.operation = operation;
    moment.acknowledged = acknowledged_;
    moment.rows = machine_.store()->All();
    for (uint64_t kept = 0; kept <= machine_.disk()->unsynced_operations(); ++kept) {
      moment.disks.push_back(machine_.disk()->AfterPowerLoss(kept));
    }
    MutexLock lock(&mutex_);
    moments_.push_back(std::move(moment));
  }

  // One rank's part of a save: a trained file, a small one that names the step, and one that never changes.
  void SavePart(uint64_t step, int rank, CarriedFiles* carried) {
    Save save;
    save.step = {
        .stage_uid = kUid, .fence = 1, .step = step, .world = kWorld, .cursor = "cursor", .final = step == kLastStep};
    const auto folder = machine_.client().BeginStep(save.step);
    ASSERT_TRUE(folder.ok()) << folder.status();
    save.folder = *folder;
    save.rank = rank;
    const std::string frozen = absl::StrCat("frozen-", rank, ".safetensors");
    const auto linked = carried->LinkInto(machine_.disk(), *folder);
    ASSERT_TRUE(linked.ok()) << linked.status();
    EXPECT_EQ(linked->size(), step == kStepsBetweenSaves ? 0u : 1u);
    save.written = *linked;
    if (linked->empty()) save.files.push_back(Tensors(frozen, 1));
    save.files.push_back(Tensors(absl::StrCat("trained-", rank, ".safetensors"), static_cast<float>(step)));
    FileToWrite small;
    small.name = absl::StrCat("state-", rank, ".json");
    small.contents = absl::StrCat("step ", step);
    save.files.push_back(std::move(small));
    save.done = [&](const SaveResult& result) {
      carried->Remember(*folder, result.files, std::vector<std::string>{frozen});
    };
    StepWriter writer(machine_.disk(), &machine_.client(), RealClock(), {});
    ASSERT_TRUE(writer.Start(std::move(save)).ok());
    ASSERT_TRUE(writer.Wait().ok());
    if (rank == kWorld - 1) acknowledged_ = step;
    machine_.Settle();
  }

  // What stands on that disk, beside those rows, once the machine is on again.
  void CheckRecovered(std::unique_ptr<SimulatedFileSystem> disk, const Rows& rows, uint64_t acknowledged) {
    Machine again(std::move(disk), rows);
    again.Settle();
    const auto steps = again.client().ListStepsOfJob("job-1");
    ASSERT_TRUE(steps.ok()) << steps.status();
    std::vector<std::string> complete;
    uint64_t newest = 0;
    for (const StepInfo& step : *steps) {
      if (step.status != StepStatus::kComplete) continue;
      const auto verified = again.client().VerifyStep(kUid, step.step, absl::Seconds(60));
      ASSERT_TRUE(verified.ok()) << verified.status();
      EXPECT_TRUE(verified->damages.empty())
          << step.folder << ": " << verified->damages[0].file << ": " << verified->damages[0].detail;
      newest = std::max(newest, step.step);
      complete.push_back(step.folder.substr(step.folder.rfind('/') + 1));
    }
    // The step that was acknowledged last, or the one whose commit was on its way.
    EXPECT_TRUE(newest == acknowledged || newest == acknowledged + kStepsBetweenSaves) << newest;
    const auto opened = again.Open(2);
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ(opened->step, newest);
    EXPECT_EQ(opened->final, newest == kLastStep);
    again.Settle();
    EXPECT_EQ(again.Folders(), complete);  // of anything else nothing is left
    for (int rank = 0; newest > 0 && rank < kWorld; ++rank) {
      EXPECT_EQ(ReadFile(again.disk(), absl::StrCat(opened->folder, "/state-", rank, ".json"), 100).value_or("none"),
                absl::StrCat("step ", newest));
    }
  }

  std::atomic<uint64_t> acknowledged_{0};
  Mutex mutex_;
  std::vector<Moment> moments_ ABSL_GUARDED_BY(mutex_);
  Machine machine_;
};

TEST_F(PowerLossTest, AtEveryPointWithEverySuffixLostTheLastStepStandsOrTheNextOne) {
  ASSERT_TRUE(machine_.Open(1).ok());
  machine_.Settle();
  std::vector<CarriedFiles> carried(kWorld);
  for (uint64_t step = kStepsBetweenSaves; step <= kLastStep; step += kStepsBetweenSaves) {
    for (int rank = 0; rank < kWorld; ++rank) SavePart(step, rank, &carried[static_cast<size_t>(rank)]);
  }
  const auto artifact = machine_.client().CommitArtifact(kUid, 1, "model");
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  machine_.Settle();
  Keep("the end");
  std::vector<Moment> moments;
  {
    MutexLock lock(&mutex_);
    moments.swap(moments_);
  }
  size_t machines = 0, suffixes_most = 0;
  std::set<uint64_t> acknowledged;
  for (size_t i = 0; i < moments.size(); ++i) {
    Moment& moment = moments[i];
    suffixes_most = std::max(suffixes_most, moment.disks.size());
    acknowledged.insert(moment.acknowledged);
    for (size_t kept = 0; kept < moment.disks.size(); ++kept, ++machines) {
      SCOPED_TRACE(absl::StrCat("before operation ", i, ", ", moment.operation, ", ", kept, " unsynced kept of ",
                                moment.disks.size() - 1));
      CheckRecovered(std::move(moment.disks[kept]), moment.rows, moment.acknowledged);
      ASSERT_FALSE(HasFailure());
    }
  }
  RecordProperty("machines", static_cast<int>(machines));
  EXPECT_GT(moments.size(), 200u);
  EXPECT_GT(machines, 800u);
  EXPECT_GT(suffixes_most, 5u);  // operations that a power loss may take back at one moment
  EXPECT_EQ(acknowledged.size(), 5u);
}

}  // namespace
}  // namespace vlm::checkpoint
