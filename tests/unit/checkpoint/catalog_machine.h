// One machine that runs the checkpoint service's core over a simulated disk and store, and can lose its power
// before any operation that changes either.
#ifndef VLM_TESTS_UNIT_CHECKPOINT_CATALOG_MACHINE_H_
#define VLM_TESTS_UNIT_CHECKPOINT_CATALOG_MACHINE_H_

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/simulated_file_system.h"
#include "checkpoint/core/checkpoint_core.h"
#include "checkpoint/format/durable_file.h"
#include "checkpoint/service/effect_runner.h"
#include "store/simulated_meta_store.h"

namespace vlm::checkpoint {

inline const std::string kUid = "0123456789abcdef";

class CatalogMachine {
 public:
  explicit CatalogMachine(RngKey seed = {}) : disk_(seed), store_(CatalogFamilies()) {
    VLM_CHECK(disk_.MakeDirectory("/data").ok() && disk_.SyncDirectory("/").ok(), "cannot make /data");
    disk_.SetHook([this](FileOperation operation, const std::string&) {
      const bool changes = operation != FileOperation::kOpen && operation != FileOperation::kRead &&
                           operation != FileOperation::kList && operation != FileOperation::kStat;
      return !changes || Power() ? absl::OkStatus() : absl::AbortedError("no power");
    });
    Boot();
  }

  // Reads the rows and does what they want.
  void Boot() {
    core_ = std::make_unique<CheckpointCore>();
    effects_.clear();
    for (const std::string& family : CatalogFamilies()) {
      const absl::Status scanned = store_.Scan(family, "", [&](std::string_view key, std::string_view value) {
        const absl::Status added = family == kMetaFamily ? absl::OkStatus() : core_->AddRow(family, key, value);
        VLM_CHECK(added.ok(), added.ToString());
        return true;
      });
      VLM_CHECK(scanned.ok(), scanned.ToString());
    }
    absl::StatusOr<Outputs> started = core_->Start(now_);
    VLM_CHECK(started.ok(), started.status().ToString());
    Perform(*std::move(started));
    if (run_effects_) RunEffects();
  }

  void StopAfter(uint64_t operations) { operations_left_ = operations; }
  bool stopped() const { return out_; }
  void Crash(SimulatedFileSystem::Survival survival) {
    operations_left_.reset();
    out_ = false;
    disk_.Crash(survival);
    store_.Crash();
  }

  // The process ends and starts again; the machine stays on.
  void Restart() {
    operations_left_.reset();
    out_ = false;
    Boot();
  }

  // Effects stay queued until RunEffects, for tests of what happens between.
  void HoldEffects(bool hold) { run_effects_ = !hold; }
  void RunEffects() {
    while (!effects_.empty() && !out_) {
      const Effect effect = std::move(effects_.front());
      effects_.pop_front();
      EffectResult result = runner_.Run(effect);
      if (out_) return;  // the process that would hear of it is gone
      Perform(core_->Handle(now_, result));
      if (effect.delay > absl::ZeroDuration() && !result.status.ok()) return;  // would be tried for ever
    }
  }

  // Only verifications that a stage waits for; those of people stay queued.
  void RunFirstEffects() {
    std::deque<Effect> others;
    for (Effect& effect : std::exchange(effects_, {})) {
      if (effect.first) {
        Perform(core_->Handle(now_, runner_.Run(effect)));
      } else {
        others.push_back(std::move(effect));
      }
    }
    for (Effect& effect : others) effects_.push_back(std::move(effect));
  }

  // The reply's number; see Reply().
  uint64_t Send(const Request& request) {
    const uint64_t call = next_call_++;
    if (!out_) Perform(core_->Handle(now_ += absl::Seconds(1), call, request));
    if (run_effects_) RunEffects();
    return call;
  }
  bool Replied(uint64_t call) const { return replies_.contains(call); }
  template <typename Typed>
  absl::StatusOr<Typed> Reply(uint64_t call) const {
    const auto found = replies_.find(call);
    if (found == replies_.end()) return absl::UnavailableError("no reply");
    if (!found->second.ok()) return found->second.status();
    return std::get<Typed>(*found->second);
  }

  absl::StatusOr<v1::OpenAttemptResponse> Open(uint64_t fence, uint32_t keep_last = 3) {
    v1::OpenAttemptRequest request;
    request.set_stage_uid(kUid);
    request.set_fence(fence);
    request.mutable_stage()->set_job_id("job-1");
    request.mutable_stage()->set_stage("sft");
    request.mutable_stage()->set_root("/data");
    request.mutable_stage()->set_keep_last(keep_last);
    return Reply<v1::OpenAttemptResponse>(Send(request));
  }
  static v1::BeginStepRequest BeginRequest(uint64_t fence, uint64_t step, int world = 1, bool final = false) {
    v1::BeginStepRequest request;
    request.set_stage_uid(kUid);
    request.set_fence(fence);
    request.set_step(step);
    request.set_world(world);
    request.set_cursor("cursor");
    request.set_final(final);
    return request;
  }
  absl::StatusOr<v1::BeginStepResponse> Begin(uint64_t fence, uint64_t step, int world = 1, bool final = false) {
    return Reply<v1::BeginStepResponse>(Send(BeginRequest(fence, step, world, final)));
  }
  // Writes one file of a rank; then reports it.
  absl::StatusOr<v1::AddPartRequest> WritePart(uint64_t fence, uint64_t step, int rank) {
    const std::string name = "rank-" + std::to_string(rank) + ".bin";
    const std::string folder = StepFolder("/data", "job-1", "sft", {kUid, step, fence});
    VLM_ASSIGN_OR_RETURN(
        const WrittenFile written,
        WriteDurableFile(&disk_, folder + "/" + name, "contents of step " + std::to_string(step) + name));
    v1::AddPartRequest request;
    request.set_stage_uid(kUid);
    request.set_fence(fence);
    request.set_step(step);
    request.set_rank(rank);
    v1::StepFile& file = *request.add_files();
    file.set_name(name);
    file.set_bytes(written.bytes);
    file.set_digest(written.digest);
    return request;
  }
  absl::StatusOr<v1::AddPartResponse> Add(const v1::AddPartRequest& request) {
    return Reply<v1::AddPartResponse>(Send(request));
  }
  // Begin, write and report with one rank.
  absl::StatusOr<v1::AddPartResponse> Save(uint64_t fence, uint64_t step, bool final = false) {
    VLM_RETURN_IF_ERROR(Begin(fence, step, 1, final).status());
    VLM_ASSIGN_OR_RETURN(const v1::AddPartRequest request, WritePart(fence, step, 0));
    return Add(request);
  }
  absl::StatusOr<v1::CommitArtifactResponse> CommitArtifact(uint64_t fence, const std::string& kind = "model") {
    v1::CommitArtifactRequest request;
    request.set_stage_uid(kUid);
    request.set_fence(fence);
    request.set_kind(kind);
    return Reply<v1::CommitArtifactResponse>(Send(request));
  }
  absl::StatusOr<v1::VerifyStepResponse> Verify(uint64_t step) {
    v1::VerifyStepRequest request;
    request.set_stage_uid(kUid);
    request.set_step(step);
    return Reply<v1::VerifyStepResponse>(Send(request));
  }
  absl::Status Delete(uint64_t step, uint64_t fence = 0) {
    v1::DeleteStepRequest request;
    request.set_stage_uid(kUid);
    request.set_step(step);
    request.set_fence(fence);
    return Reply<v1::DeleteStepResponse>(Send(request)).status();
  }
  // "500@1:COMPLETE ..." with holds.
  std::string Describe() const {
    std::string text;
    for (const v1::Step& step : core_->Steps()) {
      text += std::to_string(step.step()) + "@" + std::to_string(step.fence()) + ":" +
              v1::StepState_Name(step.state()).substr(11);
      for (const std::string& hold : step.holds()) text += "+" + hold;
      text += " ";
    }
    return text;
  }
  // Folders of the stage on the disk.
  std::vector<std::string> Folders() { return disk_.List("/data/jobs/job-1/sft").value_or(std::vector<std::string>()); }

  SimulatedFileSystem* disk() { return &disk_; }
  store::SimulatedMetaStore* store() { return &store_; }
  const CheckpointCore& core() const { return *core_; }
  int Count(CatalogEvent::Kind kind) const {
    return static_cast<int>(
        std::count_if(events_.begin(), events_.end(), [&](const auto& e) { return e.kind == kind; }));
  }

 private:
  bool Power() {
    if (operations_left_.has_value() && (*operations_left_)-- == 0) {
      out_ = true;
      operations_left_ = 0;
    }
    return !out_;
  }

  void Perform(Outputs outputs) {
    if (!outputs.mutations.empty()) {
      if (!Power()) return;
      const absl::Status committed = store_.Commit(outputs.mutations, store::Durability::kSynced);
      VLM_CHECK(committed.ok(), committed.ToString());
    }
    for (CatalogEvent& event : outputs.events) events_.push_back(std::move(event));
    for (Effect& effect : outputs.effects) effects_.push_back(std::move(effect));
    for (vlm::checkpoint::Reply& reply : outputs.replies) {
      VLM_CHECK(replies_.emplace(reply.call, std::move(reply.response)).second, "a call was answered twice");
    }
  }

  SimulatedFileSystem disk_;
  store::SimulatedMetaStore store_;
  const EffectRunner runner_{&disk_, {{"/data"}, "00112233445566778899aabbccddeeff"}};
  std::unique_ptr<CheckpointCore> core_;
  std::deque<Effect> effects_;
  std::map<uint64_t, absl::StatusOr<Response>> replies_;
  std::vector<CatalogEvent> events_;  // durable ones
  std::optional<uint64_t> operations_left_;
  bool out_ = false;
  bool run_effects_ = true;
  uint64_t next_call_ = 1;
  absl::Time now_ = absl::FromUnixSeconds(1'000'000);
};

}  // namespace vlm::checkpoint

#endif  // VLM_TESTS_UNIT_CHECKPOINT_CATALOG_MACHINE_H_
