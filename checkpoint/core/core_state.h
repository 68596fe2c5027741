// The core's state and its handlers, one per request and per effect. Only for the core's own sources.
#ifndef VLM_CHECKPOINT_CORE_CORE_STATE_H_
#define VLM_CHECKPOINT_CORE_CORE_STATE_H_

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/core/catalog.h"
#include "checkpoint/core/checkpoint_core.h"

namespace vlm::checkpoint {

inline std::string NameOf(const StepKey& key) { return absl::StrCat("step ", key.step, " of attempt ", key.fence); }

struct CheckpointCore::State {
  struct Pending {
    Effect::Kind kind;
    StepKey step;      // but for kPrepareRoot
    std::string root;  // of kPrepareRoot
    bool first = false;
  };
  struct Root {
    bool ready = false;
    std::vector<std::pair<uint64_t, v1::OpenAttemptRequest>> waiting;
  };

  Stages stages;
  std::map<std::string, Root> roots;  // asked for in this process's life
  std::map<uint64_t, Pending> pending;
  uint64_t next_effect = 1;
  // Of the message being handled:
  absl::Time now;
  Outputs out;

  Outputs Take() { return std::exchange(out, Outputs()); }

  void Answer(uint64_t call, absl::StatusOr<Response> response) { out.replies.push_back({call, std::move(response)}); }
  void AnswerAll(std::vector<uint64_t>* calls, const absl::StatusOr<Response>& response) {
    for (const uint64_t call : std::exchange(*calls, {})) Answer(call, response);
  }
  void Tell(CatalogEvent::Kind kind, const StepKey& key, std::string reason = "") {
    out.events.push_back({kind, key, std::move(reason)});
  }

  // Adds an effect on a step; the reference is good until the next one is added.
  Effect& Want(Effect::Kind kind, const StepKey& key);
  void WantDescription(const StepKey& key);
  void WantVerification(const StepKey& key, bool first);

  StageState* FindStage(const std::string& stage_uid) {
    const auto found = stages.find(stage_uid);
    return found == stages.end() ? nullptr : &found->second;
  }
  StepState* FindStep(const StepKey& key) {
    StageState* const stage = FindStage(key.stage_uid);
    if (stage == nullptr) return nullptr;
    const auto found = stage->steps.find({key.step, key.fence});
    return found == stage->steps.end() ? nullptr : &found->second;
  }
  // The row of a step number that answers for it: the newest COMPLETE one, else the newest.
  std::optional<StepKey> FindByNumber(const std::string& stage_uid, uint64_t step);

  void MoveResumeHold(const std::string& stage_uid, StageState* stage, const StepKey& to);
  void StartRemoval(const StepKey& key, const std::string& reason, const absl::Status& to_waiting);
  void ApplyRetention(const std::string& stage_uid);
  void Commit(const StepKey& key, StepState* step);
  void Publish(const StepKey& key, StepState* step);

  void Handle(uint64_t call, const v1::OpenAttemptRequest& request);
  void Open(uint64_t call, const v1::OpenAttemptRequest& request);
  void Handle(uint64_t call, const v1::BeginStepRequest& request);
  void Handle(uint64_t call, const v1::AddPartRequest& request);
  void Handle(uint64_t call, const v1::CommitArtifactRequest& request);
  void Handle(uint64_t call, const v1::GetStepRequest& request);
  void Handle(uint64_t call, const v1::ListStepsRequest& request);
  void Handle(uint64_t call, const v1::GetLatestRequest& request);
  void Handle(uint64_t call, const v1::DeleteStepRequest& request);
  void Handle(uint64_t call, const v1::VerifyStepRequest& request);
  void AbortStep(uint64_t call, const v1::DeleteStepRequest& request);

  void RootPrepared(const std::string& root, const absl::Status& status);
  void FolderMade(const StepKey& key, const absl::Status& status);
  void FilesChecked(const StepKey& key, const EffectResult& result);
  void FilesVerified(const StepKey& key, bool first, const EffectResult& result);
  void Described(const StepKey& key, const absl::Status& status);
  void FolderRemoved(const StepKey& key, const absl::Status& status);
};

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_CORE_CORE_STATE_H_
