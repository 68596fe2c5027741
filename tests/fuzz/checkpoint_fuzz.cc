// The checkpoint service behind its handlers: any request bytes of any method, over a simulated disk and store, with
// restarts between.
//
// Every call is answered once, nothing outside the artifact root is touched, whatever names and folders a request
// holds, no step's folder goes whose row does not say so, and the catalog always opens again. At the end one byte of a
// row is damaged: that is an error with a reason, or lived with under the same rules.
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "base/simulated_file_system.h"
#include "checkpoint/core/catalog_keys.h"
#include "checkpoint/format/durable_file.h"
#include "checkpoint/service/checkpoint_service.h"
#include "store/simulated_meta_store.h"
#include "tests/fuzz/drained_executor.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/message_builder.h"
#include "vlm/v1/catalog.pb.h"

namespace vlm::checkpoint {
namespace {

using fuzz::FuzzInput;

constexpr int kOperationsMax = 48;
constexpr char kRoot[] = "/data";
const std::string kUid = "0123456789abcdef";

bool IsBelowRoot(const std::string& path) {
  return (path == kRoot || path.starts_with("/data/")) && (path + "/").find("/../") == std::string::npos;
}

class FuzzedService {
 public:
  explicit FuzzedService(FuzzInput* input) : input_(*input), store_(CatalogFamilies()) {
    VLM_CHECK(disk_.MakeDirectory(kRoot).ok() && disk_.SyncDirectory("/").ok(), "cannot make the root");
    disk_.SetHook([this](FileOperation operation, const std::string& path) {
      Watch(operation, path);
      return absl::OkStatus();
    });
    Start();
  }

  void Run() {
    const Damage damage = {input_.Byte(), input_.Byte(), input_.Byte(), input_.Byte()};
    for (int operation = 0; operation < kOperationsMax && !input_.empty(); ++operation) Operate();
    Finish();
    Start();
    if (!Apply(damage)) return;
    damaged_ = true;
    const absl::Status opened = TryStart();
    if (!opened.ok()) return VLM_CHECK(!opened.message().empty(), "damaged rows are refused without a reason");
    Open();
    Save();
    Finish();
  }

 private:
  // Of one row: which, by family and place, and a byte of its key or its value.
  struct Damage {
    uint8_t family = 0, row = 0, at = 0, value = 0;
  };

  void Finish() {
    executor_.Advance(absl::Hours(1));
    executor_.Advance(absl::Hours(1));
    for (const auto& answers : open_) VLM_CHECK(*answers == 1, "a call was never answered");
  }

  std::vector<std::pair<std::string, std::string>> RowsOf(const std::string& family) const {
    std::vector<std::pair<std::string, std::string>> rows;
    const absl::Status scanned = store_.Scan(family, "", [&rows](std::string_view key, std::string_view value) {
      rows.emplace_back(key, value);
      return true;
    });
    VLM_CHECK(scanned.ok(), scanned.ToString());
    return rows;
  }

  void Watch(FileOperation operation, const std::string& path) const {
    // A root that is damaged to another one is asked whose it is; that file is all that is read of it.
    const bool asks = damaged_ && (operation == FileOperation::kOpen || operation == FileOperation::kRead) &&
                      path.ends_with("/CATALOG");
    const bool looks = operation == FileOperation::kStat || operation == FileOperation::kList || asks;
    VLM_CHECK(looks || IsBelowRoot(path), "the service touched a path outside its root: " + path);
    if (operation == FileOperation::kRemoveDirectory) {
      VLM_CHECK(IsLeaving(path), "a folder was removed whose step is not being deleted: " + path);
    }
  }

  bool IsLeaving(const std::string& folder) const {
    const std::string name = folder.substr(folder.rfind('/') + 1);
    for (const auto& [key, value] : RowsOf(std::string(kStepFamily))) {
      v1::StepRow row;
      const absl::StatusOr<StepKey> step = DecodeStepKey(key);
      VLM_CHECK(step.ok() && row.ParseFromString(value), "the service goes on with a step that does not parse");
      if (row.state() == v1::STEP_STATE_DELETING && StepFolder("", "", "", *step).ends_with("/" + name)) return true;
    }
    return false;
  }

  bool Apply(const Damage& damage) {
    const std::vector<std::string> families = CatalogFamilies();
    const std::string& family = families[damage.family % families.size()];
    const auto rows = RowsOf(family);
    if (rows.empty()) return false;
    auto [key, value] = rows[damage.row % rows.size()];
    const Mutation gone = {family, key, std::nullopt};
    std::string& bytes = value.empty() || damage.family >= 200 ? key : value;
    bytes[damage.at % bytes.size()] = static_cast<char>(damage.value);
    return store_.Commit({gone, {family, key, value}}, store::Durability::kSynced).ok();
  }

  void Start() {
    const absl::Status started = TryStart();
    VLM_CHECK(started.ok(), started.ToString());
  }

  // What was in progress is lost with the process.
  absl::Status TryStart() {
    executor_.Drop();
    open_.clear();
    service_.reset();
    absl::StatusOr<std::unique_ptr<CheckpointService>> service = CheckpointService::Create(
        {.allowed_roots = {kRoot},
         .new_catalog_uuid = std::string(16, 'u'),
         .on_event = nullptr,
         .on_store_failure = [](const absl::Status& status) { VLM_CHECK(false, status.ToString()); }},
        {.store = &store_,
         .files = &disk_,
         .clock = &executor_,
         .actor = &executor_,
         .disk = &executor_,
         .verifier = &executor_});
    VLM_RETURN_IF_ERROR(service.status());
    service_ = *std::move(service);
    registry_ = {};
    service_->Register(&registry_);
    executor_.RunDue();
    return absl::OkStatus();
  }

  void Call(const std::string& name, const std::string& request) {
    const auto handler = registry_.unary.find("/vlm.v1.CheckpointService/" + name);
    VLM_CHECK(handler != registry_.unary.end(), "no such method: " + name);
    auto answers = std::make_shared<int>(0);
    handler->second({}, request, [answers](const absl::StatusOr<std::string>& answer) {
      VLM_CHECK(++*answers == 1, "a call was answered twice");
      VLM_CHECK(answer.ok() || !answer.status().message().empty(), "a call was refused without a reason");
    });
    open_.push_back(answers);
    executor_.RunDue();
  }

  template <typename Request>
  void CallWith(const std::string& name, const Request& request) {
    Call(name, request.SerializeAsString());
  }

  template <typename Request>
  void CallAnything(const std::string& name) {
    Request request;
    if (!ReadMessage(known_, &input_, &request)) return Call(name, std::string(input_.Text()));
    CallWith(name, request);
  }

  uint64_t Fence() { return 1 + input_.Below(3); }
  uint64_t Step() { return 1 + input_.Below(4); }

  void Open() {
    v1::OpenAttemptRequest request;
    request.set_stage_uid(kUid);
    request.set_fence(Fence());
    request.mutable_stage()->set_job_id("job-1");
    request.mutable_stage()->set_stage("sft");
    request.mutable_stage()->set_root(kRoot);
    request.mutable_stage()->set_keep_last(1);
    CallWith("OpenAttempt", request);
  }

  // Begun, written, reported, as a rank does; then the request may be sent again with another file.
  void Save() {
    v1::BeginStepRequest begin;
    begin.set_stage_uid(kUid);
    begin.set_fence(Fence());
    begin.set_step(Step());
    begin.set_world(1);
    begin.set_final(input_.Byte() % 4 == 1);
    CallWith("BeginStep", begin);
    const std::string folder = StepFolder(kRoot, "job-1", "sft", {kUid, begin.step(), begin.fence()});
    const absl::StatusOr<WrittenFile> written = WriteDurableFile(&disk_, folder + "/rank-0.bin", "contents");
    v1::AddPartRequest part;
    part.set_stage_uid(kUid);
    part.set_fence(begin.fence());
    part.set_step(begin.step());
    v1::StepFile& file = *part.add_files();
    file.set_name("rank-0.bin");
    if (written.ok()) {
      file.set_bytes(written->bytes);
      file.set_digest(written->digest);
    }
    CallWith("AddPart", part);
  }

  void Operate() {
    switch (input_.Below(16)) {
      case 0:
        return Open();
      case 1:
      case 2:
        return Save();
      case 3:
        return Start();
      case 4:
        return executor_.Advance(absl::Seconds(input_.Byte()));
      case 5: {  // rot
        const std::string folder = StepFolder(kRoot, "job-1", "sft", {kUid, Step(), Fence()});
        disk_.FlipBit(folder + "/rank-0.bin", input_.Byte() % 64).IgnoreError();
        return;
      }
      case 6:
        return CallAnything<v1::OpenAttemptRequest>("OpenAttempt");
      case 7:
        return CallAnything<v1::BeginStepRequest>("BeginStep");
      case 8:
        return CallAnything<v1::AddPartRequest>("AddPart");
      case 9:
        return CallAnything<v1::CommitArtifactRequest>("CommitArtifact");
      case 10:
        return CallAnything<v1::GetStepRequest>("GetStep");
      case 11:
        return CallAnything<v1::ListStepsRequest>("ListSteps");
      case 12:
        return CallAnything<v1::GetLatestRequest>("GetLatest");
      case 13:
        return CallAnything<v1::DeleteStepRequest>("DeleteStep");
      default:
        return CallAnything<v1::VerifyStepRequest>("VerifyStep");
    }
  }

  FuzzInput& input_;
  fuzz::DrainedExecutor executor_;
  SimulatedFileSystem disk_;
  store::SimulatedMetaStore store_;
  std::unique_ptr<CheckpointService> service_;
  rpc::ServiceRegistry registry_;
  std::vector<std::shared_ptr<int>> open_;  // answers of this process's calls
  bool damaged_ = false;
  const fuzz::KnownValues known_ = {
      {{"stage_uid", {kUid, "fedcba9876543210", "short"}},
       {"root", {"/data", "/data/..", "/data/deep", "/", "/data//x", "data", "/database"}},
       {"job_id", {"job-1", "..", "a/b", ""}},
       {"stage", {"sft", "..", "/etc", "."}},
       {"name", {"rank-0.bin", "../up", "/etc/passwd", "a/b/c/d/e", "rank-0.bin.sum", "COMMITTED.json", "x/../y", "."}},
       {"kind", {"model", "a\nb", ""}},
       {"digest", {std::string(64, '0'), std::string(64, 'g'), ""}}},
      {{"fence", {1, 2, 3}},
       {"step", {1, 2, 3, 4}},
       {"world", {1, 2}},
       {"rank", {0, 1}},
       {"bytes", {8, 0}},
       {"reserve_bytes", {0, 8}}}};
};

}  // namespace
}  // namespace vlm::checkpoint

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  vlm::checkpoint::FuzzedService(&input).Run();
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  // Opened and saved, and at the end another catalog's identity.
  const std::string save("\x00\x00\x01\x00\x00\x01", 6);
  const std::string identity("\x00\x00\x00x", 4);
  std::vector<std::string> seeds = {identity + save, identity + save + std::string("\x05\x00\x00\x03\x04\xff", 6)};
  Rng rng(RngKey{17});
  for (int i = 0; i < 24; ++i) {
    std::string seed;
    for (int byte = 0; byte < 4; ++byte) seed += static_cast<char>(rng.Below(256));
    seed += save;
    if (i % 2 == 0) {
      seeds.push_back(std::move(seed));
      continue;
    }
    for (int byte = 0; byte < 300; ++byte) seed += static_cast<char>(rng.Below(256));
    seeds.push_back(std::move(seed));
  }
  return seeds;
}
