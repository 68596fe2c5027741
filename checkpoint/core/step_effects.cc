// What each finished effect decides.
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/core/core_state.h"

namespace vlm::checkpoint {
namespace {

constexpr absl::Duration kRemoveRetry = absl::Seconds(5);

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp stamp;
  const int64_t seconds = absl::ToUnixSeconds(time);
  stamp.set_seconds(seconds);
  stamp.set_nanos(static_cast<int32_t>((time - absl::FromUnixSeconds(seconds)) / absl::Nanoseconds(1)));
  return stamp;
}

std::string DescribeDamages(const std::vector<v1::VerifyStepResponse::Damage>& damages) {
  const v1::VerifyStepResponse::Damage& first = damages.front();
  return absl::StrCat(first.file(), first.chunk() < 0 ? "" : absl::StrCat(", chunk ", first.chunk()), ": ",
                      first.detail(), damages.size() > 1 ? absl::StrCat(" (and ", damages.size() - 1, " more)") : "");
}

}  // namespace

void CheckpointCore::State::RootPrepared(const std::string& name, const absl::Status& status) {
  Root& root = roots[name];
  root.ready = status.ok();
  for (const auto& [call, request] : std::exchange(root.waiting, {})) {
    if (status.ok()) {
      Open(call, request);
    } else {
      Answer(call, Annotate(status, "artifacts root cannot be used"));
    }
  }
}

void CheckpointCore::State::FolderMade(const StepKey& key, const absl::Status& status) {
  StepState* const step = FindStep(key);
  if (step == nullptr || step->row.state() != v1::STEP_STATE_WRITING) return;  // given up meanwhile
  if (!status.ok()) {
    const std::string reason = absl::StrCat("its folder could not be made: ", status.message());
    Tell(CatalogEvent::Kind::kAborted, key, reason);
    return StartRemoval(key, reason, status);
  }
  step->folder_made = true;
  v1::BeginStepResponse response;
  response.set_folder(step->row.folder());
  AnswerAll(&step->waiting.begin, Response(std::move(response)));
}

void CheckpointCore::State::FilesChecked(const StepKey& key, const EffectResult& result) {
  StepState* const step = FindStep(key);
  if (step == nullptr || step->row.state() != v1::STEP_STATE_WRITING) return;  // refused: the fence moved
  step->checking = false;
  if (!result.status.ok()) return AnswerAll(&step->waiting.part, result.status);
  if (!result.damages.empty()) {
    return AnswerAll(&step->waiting.part, absl::DataLossError(absl::StrCat("a reported file is not there as reported: ",
                                                                           DescribeDamages(result.damages))));
  }
  Commit(key, step);
}

void CheckpointCore::State::Commit(const StepKey& key, StepState* step) {
  StageState& stage = stages.at(key.stage_uid);
  uint64_t bytes = 0;
  for (const v1::StepFile& file : step->Files()) bytes += file.bytes();
  step->row.set_state(v1::STEP_STATE_COMPLETE);
  step->row.set_bytes(bytes);
  *step->row.mutable_committed_at() = ToTimestamp(now);
  out.mutations.push_back(PutStep(key, step->row));
  const auto* const newest = NewestComplete(stage);
  MoveResumeHold(key.stage_uid, &stage, {key.stage_uid, newest->first.first, newest->first.second});
  Tell(CatalogEvent::Kind::kCommitted, key);
  v1::AddPartResponse response;
  response.set_committed(true);
  AnswerAll(&step->waiting.part, Response(std::move(response)));
  v1::BeginStepResponse begun;
  begun.set_folder(step->row.folder());
  AnswerAll(&step->waiting.begin, Response(std::move(begun)));
  WantDescription(key);
  ApplyRetention(key.stage_uid);
}

void CheckpointCore::State::Described(const StepKey& key, const absl::Status& status) {
  StepState* const step = FindStep(key);
  if (step == nullptr || step->row.state() == v1::STEP_STATE_DELETING) return;
  if (!status.ok()) return Tell(CatalogEvent::Kind::kNotDescribed, key, status.ToString());
  step->row.set_described(true);
  out.mutations.push_back(PutStep(key, step->row));
}

void CheckpointCore::State::FilesVerified(const StepKey& key, bool first, const EffectResult& result) {
  StepState* const step = FindStep(key);
  if (step == nullptr) return;
  (first ? step->verifying_first : step->verifying) = false;
  if (step->row.state() == v1::STEP_STATE_DELETING) return;  // answered when the deletion began
  if (!result.status.ok()) {
    if (step->verifying || step->verifying_first) return;  // the other reading answers
    AnswerAll(&step->waiting.verify, result.status);
    return AnswerAll(&step->waiting.artifact, result.status);
  }
  v1::VerifyStepResponse response;
  response.set_bytes(step->row.bytes());
  *response.mutable_damages() = {result.damages.begin(), result.damages.end()};
  if (result.damages.empty()) {
    *step->row.mutable_verified_at() = ToTimestamp(now);
    Tell(CatalogEvent::Kind::kVerified, key);
  } else {
    step->row.set_state(v1::STEP_STATE_DAMAGED);
    step->row.set_damage(DescribeDamages(result.damages));
    Tell(CatalogEvent::Kind::kDamaged, key, step->row.damage());
  }
  out.mutations.push_back(PutStep(key, step->row));
  AnswerAll(&step->waiting.verify, Response(std::move(response)));
  if (step->row.state() == v1::STEP_STATE_DAMAGED) {
    return AnswerAll(&step->waiting.artifact,
                     absl::DataLossError(absl::StrCat("the stage's final step is damaged: ", step->row.damage())));
  }
  if (!step->waiting.artifact.empty()) Publish(key, step);
}

void CheckpointCore::State::Publish(const StepKey& key, StepState* step) {
  StageState& stage = stages.at(key.stage_uid);
  if (stage.artifact.has_value()) {  // of an earlier final step that was lost
    out.mutations.push_back(EraseArtifact(key.stage_uid, *stage.artifact));
    const StepKey old{key.stage_uid, stage.artifact->step(), stage.artifact->fence()};
    StepState* const old_step = FindStep(old);
    if (old_step != nullptr && old_step->holds.erase({HoldKind::kOutput, 0}) > 0) {
      out.mutations.push_back(EraseHold(old, {HoldKind::kOutput, 0}));
    }
  }
  v1::ArtifactRow& artifact = stage.artifact.emplace();
  artifact.set_kind(step->artifact_kind);
  artifact.set_step(key.step);
  artifact.set_fence(key.fence);
  artifact.set_digest(ArtifactDigest(step->artifact_kind, step->Files()));
  artifact.set_folder(step->row.folder());
  artifact.set_bytes(step->row.bytes());
  out.mutations.push_back(PutArtifact(key.stage_uid, artifact));
  const Hold hold{HoldKind::kOutput, 0};
  step->holds.insert(hold);
  out.mutations.push_back(PutHold(key, hold));
  Tell(CatalogEvent::Kind::kPublished, key, artifact.digest());
  v1::CommitArtifactResponse response;
  response.set_digest(artifact.digest());
  response.set_folder(artifact.folder());
  response.set_bytes(artifact.bytes());
  response.set_step(artifact.step());
  AnswerAll(&step->waiting.artifact, Response(std::move(response)));
}

void CheckpointCore::State::FolderRemoved(const StepKey& key, const absl::Status& status) {
  StepState* const step = FindStep(key);
  if (step == nullptr) return;
  if (!status.ok()) {  // the row stays DELETING, so it is tried again, after a restart too
    AnswerAll(&step->waiting.remove,
              Annotate(status, "step is being deleted, but its folder could not be removed yet"));
    Want(Effect::Kind::kRemoveFolder, key).delay = kRemoveRetry;
    return;
  }
  for (Mutation& mutation : EraseStep(key, *step)) out.mutations.push_back(std::move(mutation));
  AnswerAll(&step->waiting.remove, Response(v1::DeleteStepResponse()));
  Tell(CatalogEvent::Kind::kDeleted, key, step->row.delete_reason());
  stages.at(key.stage_uid).steps.erase({key.step, key.fence});
}

}  // namespace vlm::checkpoint
