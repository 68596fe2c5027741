// The checkpoint service behind its handlers: any request bytes of any method, over a simulated disk and store, with
// restarts between.
//
// Every call is answered once, nothing outside the artifact root is touched, whatever names and folders a request
// holds, and the catalog always opens again.
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
    disk_.SetHook([](FileOperation operation, const std::string& path) {
      const bool reads = operation == FileOperation::kStat || operation == FileOperation::kList;
      VLM_CHECK(reads || IsBelowRoot(path), "the service touched a path outside its root: " + path);
      return absl::OkStatus();
    });
    Start();
  }

  void Run() {
    for (int operation = 0; operation < kOperationsMax && !input_.empty(); ++operation) Operate();
    executor_.Advance(absl::Hours(1));
    executor_.Advance(absl::Hours(1));
    for (const auto& answers : open_) VLM_CHECK(*answers == 1, "a call was never answered");
    Start();
  }

 private:
  // What was in progress is lost with the process.
  void Start() {
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
    VLM_CHECK(service.ok(), service.status().ToString());
    service_ = *std::move(service);
    registry_ = {};
    service_->Register(&registry_);
    executor_.RunDue();
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
  const std::string save("\x00\x00\x01\x00\x00\x01", 6);
  std::vector<std::string> seeds = {save, save + std::string("\x05\x00\x00\x03\x04\xff", 6)};
  Rng rng(RngKey{17});
  for (int i = 0; i < 12; ++i) {
    std::string seed = save;
    for (int byte = 0; byte < 300; ++byte) seed += static_cast<char>(rng.Below(256));
    seeds.push_back(std::move(seed));
  }
  return seeds;
}
