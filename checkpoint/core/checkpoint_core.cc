#include "checkpoint/core/checkpoint_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "checkpoint/core/core_state.h"
#include "checkpoint/core/retention.h"

namespace vlm::checkpoint {

Effect& CheckpointCore::State::Want(Effect::Kind kind, const StepKey& key) {
  const StageState& stage = stages.at(key.stage_uid);
  const StepState& step = stage.steps.at({key.step, key.fence});
  Effect effect;
  effect.id = next_effect++;
  effect.kind = kind;
  effect.root = stage.row.root();
  effect.folder = step.row.folder();
  if (kind == Effect::Kind::kCheckFiles || kind == Effect::Kind::kVerifyFiles) effect.files = step.Files();
  pending[effect.id] = {kind, key, "", false};
  out.effects.push_back(std::move(effect));
  return out.effects.back();
}

void CheckpointCore::State::WantDescription(const StepKey& key) {
  const StageState& stage = stages.at(key.stage_uid);
  std::string contents = DescribeCommitted(stage, key, stage.steps.at({key.step, key.fence}));
  Want(Effect::Kind::kWriteCommitted, key).contents = std::move(contents);
}

// One reading serves all who wait, but nobody's stage waits for one that stands behind a person's.
void CheckpointCore::State::WantVerification(const StepKey& key, bool first) {
  StepState& step = *FindStep(key);
  if (step.verifying_first || (!first && step.verifying)) return;
  (first ? step.verifying_first : step.verifying) = true;
  Effect& effect = Want(Effect::Kind::kVerifyFiles, key);
  effect.first = pending[effect.id].first = first;
}

std::optional<StepKey> CheckpointCore::State::FindByNumber(const std::string& stage_uid, uint64_t number) {
  const StageState* const stage = FindStage(stage_uid);
  if (stage == nullptr) return std::nullopt;
  std::optional<StepKey> found;
  bool complete = false;
  for (auto at = stage->steps.lower_bound({number, 0}); at != stage->steps.end() && at->first.first == number; ++at) {
    const bool this_complete = at->second.row.state() == v1::STEP_STATE_COMPLETE;
    if (complete && !this_complete) continue;
    found = StepKey{stage_uid, number, at->first.second};
    complete = this_complete;
  }
  return found;
}

// Drops every RESUME hold of the stage and holds `to` (step 0: nothing) for the current attempt.
void CheckpointCore::State::MoveResumeHold(const std::string& stage_uid, StageState* stage, const StepKey& to) {
  for (auto& [key, step] : stage->steps) {
    const StepKey step_key{stage_uid, key.first, key.second};
    for (auto hold = step.holds.begin(); hold != step.holds.end();) {
      if (hold->kind == HoldKind::kResume) {
        out.mutations.push_back(EraseHold(step_key, *hold));
        hold = step.holds.erase(hold);
      } else {
        ++hold;
      }
    }
  }
  if (to.step == 0) return;
  const Hold hold{HoldKind::kResume, stage->row.min_fence()};
  stage->steps.at({to.step, to.fence}).holds.insert(hold);
  out.mutations.push_back(PutHold(to, hold));
}

void CheckpointCore::State::StartRemoval(const StepKey& key, const std::string& reason,
                                         const absl::Status& to_waiting) {
  StepState& step = *FindStep(key);
  step.row.set_state(v1::STEP_STATE_DELETING);
  step.row.set_delete_reason(reason);
  out.mutations.push_back(PutStep(key, step.row));
  for (std::vector<uint64_t>* const calls :
       {&step.waiting.begin, &step.waiting.part, &step.waiting.verify, &step.waiting.artifact}) {
    AnswerAll(calls, to_waiting);
  }
  Want(Effect::Kind::kRemoveFolder, key);
}

void CheckpointCore::State::ApplyRetention(const std::string& stage_uid) {
  const StageState& stage = stages.at(stage_uid);
  std::vector<StepSummary> steps;
  for (const auto& [key, step] : stage.steps) {
    const bool complete = step.row.state() == v1::STEP_STATE_COMPLETE;
    if (!complete && step.row.state() != v1::STEP_STATE_DAMAGED) continue;
    // A step being re-read is in use: it goes at the next commit.
    const bool held = !step.holds.empty() || step.verifying || step.verifying_first;
    steps.push_back({{stage_uid, key.first, key.second}, complete, step.row.has_verified_at(), held});
  }
  const RetentionPolicy policy{stage.row.keep_last(), stage.row.keep_every()};
  for (const StepToDelete& deleted : DecideRetention(std::move(steps), policy)) {
    Tell(CatalogEvent::Kind::kDeleting, deleted.key, deleted.reason);
    StartRemoval(deleted.key, deleted.reason, absl::AbortedError("step is being deleted"));
  }
}

CheckpointCore::CheckpointCore() : state_(std::make_unique<State>()) {}
CheckpointCore::~CheckpointCore() = default;

absl::Status CheckpointCore::AddRow(std::string_view family, std::string_view key, std::string_view value) {
  return AddRowTo(family, key, value, &state_->stages);
}

absl::StatusOr<Outputs> CheckpointCore::Start(absl::Time now) {
  VLM_RETURN_IF_ERROR(CheckWhole(state_->stages));
  state_->now = now;
  for (auto& [uid, stage] : state_->stages) {
    for (auto& [number, step] : stage.steps) {
      const StepKey key{uid, number.first, number.second};
      if (step.row.state() == v1::STEP_STATE_DELETING) state_->Want(Effect::Kind::kRemoveFolder, key);
      if (step.row.state() == v1::STEP_STATE_COMPLETE && !step.row.described()) state_->WantDescription(key);
      if (step.row.state() != v1::STEP_STATE_WRITING) continue;
      state_->Want(Effect::Kind::kMakeFolder, key);
      // All parts were reported, the commit was not reached: nobody may call again.
      if (step.has_all_parts() && !std::exchange(step.checking, true)) state_->Want(Effect::Kind::kCheckFiles, key);
    }
  }
  return state_->Take();
}

Outputs CheckpointCore::Handle(absl::Time now, uint64_t call, const Request& request) {
  state_->now = now;
  std::visit([&](const auto& typed) { state_->Handle(call, typed); }, request);
  return state_->Take();
}

Outputs CheckpointCore::Handle(absl::Time now, const EffectResult& result) {
  state_->now = now;
  const auto found = state_->pending.find(result.id);
  if (found == state_->pending.end()) return Outputs();
  const State::Pending effect = found->second;
  state_->pending.erase(found);
  switch (effect.kind) {
    case Effect::Kind::kPrepareRoot:
      state_->RootPrepared(effect.root, result.status);
      break;
    case Effect::Kind::kMakeFolder:
      state_->FolderMade(effect.step, result.status);
      break;
    case Effect::Kind::kCheckFiles:
      state_->FilesChecked(effect.step, result);
      break;
    case Effect::Kind::kVerifyFiles:
      state_->FilesVerified(effect.step, effect.first, result);
      break;
    case Effect::Kind::kRemoveFolder:
      state_->FolderRemoved(effect.step, result.status);
      break;
    case Effect::Kind::kWriteCommitted:
      state_->Described(effect.step, result.status);
      break;
  }
  return state_->Take();
}

std::vector<v1::Step> CheckpointCore::Steps() const {
  std::vector<v1::Step> steps;
  for (const auto& [uid, stage] : state_->stages) {
    for (const auto& [key, step] : stage.steps) {
      steps.push_back(DescribeStep(uid, stage, {uid, key.first, key.second}, step, true));
    }
  }
  return steps;
}

uint64_t CheckpointCore::MinFence(std::string_view stage_uid) const {
  const StageState* const stage = state_->FindStage(std::string(stage_uid));
  return stage == nullptr ? 0 : stage->row.min_fence();
}

std::string ArtifactDigest(std::string_view kind, std::vector<v1::StepFile> files) {
  std::sort(files.begin(), files.end(),
            [](const v1::StepFile& a, const v1::StepFile& b) { return a.name() < b.name(); });
  std::string text = absl::StrCat("vlm-artifact 1 ", std::string(kind), "\n");
  for (const v1::StepFile& file : files)
    absl::StrAppend(&text, file.name(), " ", file.bytes(), " ", file.digest(), "\n");
  return Sha256Of(text).Hex();
}

}  // namespace vlm::checkpoint
