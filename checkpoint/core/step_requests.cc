// What each request decides.
#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/core/core_state.h"
#include "checkpoint/core/retention.h"
#include "checkpoint/core/step_rules.h"

namespace vlm::checkpoint {
namespace {

// The calls of an attempt are taken only while it is the stage's current one.
absl::Status CheckFence(const StageState& stage, uint64_t fence) {
  if (fence < stage.row.min_fence()) {
    return absl::FailedPreconditionError(
        absl::StrCat("attempt was replaced by attempt ", stage.row.min_fence(), "; stop its ranks: ", fence));
  }
  if (fence > stage.row.min_fence()) {
    return absl::FailedPreconditionError(absl::StrCat("attempt is not open; call OpenAttempt first: ", fence));
  }
  return absl::OkStatus();
}

}  // namespace

void CheckpointCore::State::Handle(uint64_t call, const v1::OpenAttemptRequest& request) {
  if (absl::Status status = CheckRequest(request); !status.ok()) return Answer(call, status);
  Root& root = roots[request.stage().root()];
  if (root.ready) return Open(call, request);
  root.waiting.emplace_back(call, request);
  if (root.waiting.size() > 1) return;  // asked for already
  Effect effect;
  effect.id = next_effect++;
  effect.root = effect.folder = request.stage().root();
  pending[effect.id] = {effect.kind, {}, effect.root};
  out.effects.push_back(std::move(effect));
}

void CheckpointCore::State::Open(uint64_t call, const v1::OpenAttemptRequest& request) {
  const std::string& uid = request.stage_uid();
  if (const StageState* const known = FindStage(uid)) {
    const v1::StageRow& row = known->row;
    if (request.fence() < row.min_fence()) return Answer(call, CheckFence(*known, request.fence()));
    if (row.job_id() != request.stage().job_id() || row.stage() != request.stage().stage() ||
        row.root() != request.stage().root()) {
      return Answer(call, absl::FailedPreconditionError(absl::StrCat("stage is registered as ", row.job_id(), "/",
                                                                     row.stage(), " in ", row.root())));
    }
  }
  StageState& stage = stages[uid];
  stage.row.set_job_id(request.stage().job_id());
  stage.row.set_stage(request.stage().stage());
  stage.row.set_root(request.stage().root());
  stage.row.set_keep_last(request.stage().keep_last() == 0 ? RetentionPolicy().keep_last : request.stage().keep_last());
  stage.row.set_keep_every(request.stage().keep_every());
  const bool is_new = request.fence() > stage.row.min_fence();
  if (is_new) {
    stage.row.set_min_fence(request.fence());
    stage.row.clear_aborted_steps();
    Tell(CatalogEvent::Kind::kOpened, {uid, 0, request.fence()});
  }
  out.mutations.push_back(PutStage(uid, stage.row));
  const std::string reason = absl::StrCat("attempt was replaced by attempt ", request.fence());
  for (const auto& [key, step] : stage.steps) {
    if (step.row.state() != v1::STEP_STATE_WRITING || key.second >= request.fence()) continue;
    const StepKey aborted{uid, key.first, key.second};
    Tell(CatalogEvent::Kind::kAborted, aborted, reason);
    StartRemoval(aborted, reason, absl::FailedPreconditionError(reason));
  }
  v1::OpenAttemptResponse response;
  StepKey resume{uid, 0, 0};
  if (const auto* const newest = NewestComplete(stage)) {
    resume = {uid, newest->first.first, newest->first.second};
    response.set_step(resume.step);
    response.set_folder(newest->second.row.folder());
    response.set_cursor(newest->second.row.cursor());
    response.set_final(newest->second.row.final());
  }
  MoveResumeHold(uid, &stage, resume);
  ApplyRetention(uid);
  Answer(call, Response(std::move(response)));
}

void CheckpointCore::State::Handle(uint64_t call, const v1::BeginStepRequest& request) {
  if (absl::Status status = CheckRequest(request); !status.ok()) return Answer(call, status);
  StageState* const stage = FindStage(request.stage_uid());
  if (stage == nullptr) return Answer(call, absl::NotFoundError("stage is unknown; call OpenAttempt first"));
  if (absl::Status status = CheckFence(*stage, request.fence()); !status.ok()) return Answer(call, status);
  const StepKey key{request.stage_uid(), request.step(), request.fence()};
  const auto& given_up = stage->row.aborted_steps();
  if (std::find(given_up.begin(), given_up.end(), key.step) != given_up.end()) {
    return Answer(call, absl::FailedPreconditionError(
                            absl::StrCat("step was given up, its path is not used again: ", NameOf(key))));
  }
  if (StepState* const step = FindStep(key)) {
    const v1::StepRow& row = step->row;
    if (row.state() != v1::STEP_STATE_WRITING && row.state() != v1::STEP_STATE_COMPLETE) {
      return Answer(call,
                    absl::FailedPreconditionError(absl::StrCat("step is damaged or being deleted: ", NameOf(key))));
    }
    if (row.world() != request.world() || row.final() != request.final() || row.cursor() != request.cursor() ||
        row.parent_step() != request.parent_step()) {
      return Answer(call,
                    absl::FailedPreconditionError(absl::StrCat("step was begun with other values: ", NameOf(key))));
    }
    if (row.state() == v1::STEP_STATE_WRITING && !step->folder_made) return step->waiting.begin.push_back(call);
    v1::BeginStepResponse response;
    response.set_folder(row.folder());
    return Answer(call, Response(std::move(response)));
  }
  const auto writing = std::count_if(stage->steps.begin(), stage->steps.end(), [](const auto& entry) {
    return entry.second.row.state() == v1::STEP_STATE_WRITING;
  });
  if (writing >= kWritingStepsMax) {
    return Answer(call, absl::ResourceExhaustedError(
                            absl::StrCat(writing, " steps of the stage are being written; skip this save")));
  }
  StepState& step = stage->steps[{key.step, key.fence}];
  step.row.set_state(v1::STEP_STATE_WRITING);
  step.row.set_world(request.world());
  step.row.set_parent_step(request.parent_step());
  step.row.set_cursor(request.cursor());
  step.row.set_final(request.final());
  step.row.set_folder(StepFolder(stage->row.root(), stage->row.job_id(), stage->row.stage(), key));
  step.waiting.begin.push_back(call);
  out.mutations.push_back(PutStep(key, step.row));
  Tell(CatalogEvent::Kind::kBegun, key);
  Want(Effect::Kind::kMakeFolder, key).bytes = request.reserve_bytes();
}

void CheckpointCore::State::Handle(uint64_t call, const v1::AddPartRequest& request) {
  if (absl::Status status = CheckRequest(request); !status.ok()) return Answer(call, status);
  StageState* const stage = FindStage(request.stage_uid());
  if (stage == nullptr) return Answer(call, absl::NotFoundError("stage is unknown; call OpenAttempt first"));
  if (absl::Status status = CheckFence(*stage, request.fence()); !status.ok()) return Answer(call, status);
  const StepKey key{request.stage_uid(), request.step(), request.fence()};
  StepState* const step = FindStep(key);
  if (step == nullptr || step->row.state() == v1::STEP_STATE_DELETING) {
    return Answer(call,
                  absl::FailedPreconditionError(absl::StrCat("step was not begun, or was given up: ", NameOf(key))));
  }
  if (request.rank() < 0 || request.rank() >= step->row.world()) {
    return Answer(call, absl::InvalidArgumentError(absl::StrCat("rank must be below the step's world of ",
                                                                step->row.world(), ", is ", request.rank())));
  }
  const uint32_t rank = static_cast<uint32_t>(request.rank());
  const auto known = step->parts.find(rank);
  if (known != step->parts.end() && !SameFiles(known->second.files(), request.files())) {
    return Answer(call, absl::FailedPreconditionError(
                            absl::StrCat("rank ", rank, " reported other files before: ", NameOf(key))));
  }
  if (known == step->parts.end()) {
    std::set<std::string> taken;
    for (const v1::StepFile& file : step->Files()) taken.insert(file.name());
    for (const v1::StepFile& file : request.files()) {
      if (!taken.contains(file.name())) continue;
      return Answer(call,
                    absl::FailedPreconditionError(absl::StrCat("file was reported by another rank: ", file.name())));
    }
    v1::PartRow& part = step->parts[rank];
    *part.mutable_files() = request.files();
    out.mutations.push_back(PutPart(key, rank, part));
  }
  const bool complete = step->row.state() != v1::STEP_STATE_WRITING;
  if (!complete && step->has_all_parts()) {
    step->waiting.part.push_back(call);
    if (!std::exchange(step->checking, true)) Want(Effect::Kind::kCheckFiles, key);
    return;
  }
  v1::AddPartResponse response;
  response.set_committed(complete);
  Answer(call, Response(std::move(response)));
}

void CheckpointCore::State::Handle(uint64_t call, const v1::CommitArtifactRequest& request) {
  if (absl::Status status = CheckRequest(request); !status.ok()) return Answer(call, status);
  StageState* const stage = FindStage(request.stage_uid());
  if (stage == nullptr) return Answer(call, absl::NotFoundError("stage is unknown; call OpenAttempt first"));
  if (absl::Status status = CheckFence(*stage, request.fence()); !status.ok()) return Answer(call, status);
  std::optional<StepKey> final_step;
  std::string damage;
  for (const auto& [key, step] : stage->steps) {
    if (!step.row.final()) continue;
    if (step.row.state() == v1::STEP_STATE_COMPLETE) final_step = StepKey{request.stage_uid(), key.first, key.second};
    if (step.row.state() == v1::STEP_STATE_DAMAGED) damage = step.row.damage();
  }
  if (!final_step.has_value()) {
    if (!damage.empty())
      return Answer(call, absl::DataLossError(absl::StrCat("the stage's final step is damaged: ", damage)));
    return Answer(call, absl::NotFoundError("the stage has no final step that is complete"));
  }
  StepState& step = *FindStep(*final_step);
  const bool published = stage->artifact.has_value() && stage->artifact->step() == final_step->step &&
                         stage->artifact->fence() == final_step->fence;
  const std::string& kind = published ? stage->artifact->kind() : step.artifact_kind;
  if ((published || !step.waiting.artifact.empty()) && kind != request.kind()) {
    return Answer(call, absl::FailedPreconditionError(absl::StrCat("the artifact is of another kind: ", kind)));
  }
  if (published) {
    v1::CommitArtifactResponse response;
    response.set_digest(stage->artifact->digest());
    response.set_folder(stage->artifact->folder());
    response.set_bytes(stage->artifact->bytes());
    response.set_step(stage->artifact->step());
    return Answer(call, Response(std::move(response)));
  }
  step.artifact_kind = request.kind();
  step.waiting.artifact.push_back(call);
  WantVerification(*final_step, /*first=*/true);
}

void CheckpointCore::State::Handle(uint64_t call, const v1::GetStepRequest& request) {
  const std::optional<StepKey> key = FindByNumber(request.stage_uid(), request.step());
  if (!key.has_value()) return Answer(call, absl::NotFoundError(absl::StrCat("no such step: ", request.step())));
  v1::GetStepResponse response;
  *response.mutable_step() = DescribeStep(key->stage_uid, stages.at(key->stage_uid), *key, *FindStep(*key), true);
  Answer(call, Response(std::move(response)));
}

void CheckpointCore::State::Handle(uint64_t call, const v1::ListStepsRequest& request) {
  if (request.stage_uid().empty() == request.job_id().empty()) {
    return Answer(call, absl::InvalidArgumentError("give either job_id or stage_uid"));
  }
  v1::ListStepsResponse response;
  for (const auto& [uid, stage] : stages) {
    if (uid != request.stage_uid() && stage.row.job_id() != request.job_id()) continue;
    for (const auto& [key, step] : stage.steps) {
      *response.add_steps() = DescribeStep(uid, stage, {uid, key.first, key.second}, step, false);
    }
  }
  std::stable_sort(response.mutable_steps()->begin(), response.mutable_steps()->end(),
                   [](const v1::Step& a, const v1::Step& b) { return a.stage() < b.stage(); });
  Answer(call, Response(std::move(response)));
}

void CheckpointCore::State::Handle(uint64_t call, const v1::GetLatestRequest& request) {
  const StageState* const stage = FindStage(request.stage_uid());
  const auto* const newest = stage == nullptr ? nullptr : NewestComplete(*stage);
  if (newest == nullptr) return Answer(call, absl::NotFoundError("the stage has no complete step"));
  v1::GetLatestResponse response;
  const StepKey key{request.stage_uid(), newest->first.first, newest->first.second};
  *response.mutable_step() = DescribeStep(key.stage_uid, *stage, key, newest->second, true);
  Answer(call, Response(std::move(response)));
}

void CheckpointCore::State::Handle(uint64_t call, const v1::DeleteStepRequest& request) {
  if (request.fence() != 0) return AbortStep(call, request);
  std::vector<StepKey> found;
  if (const StageState* const stage = FindStage(request.stage_uid())) {
    for (const auto& [number, step] : stage->steps) {
      if (number.first != request.step()) continue;
      const StepKey key{request.stage_uid(), number.first, number.second};
      if (step.row.state() == v1::STEP_STATE_WRITING) {
        return Answer(call, absl::FailedPreconditionError(absl::StrCat("step is being written: ", NameOf(key))));
      }
      if (!step.holds.empty()) {
        return Answer(call, absl::FailedPreconditionError(
                                absl::StrCat("step is held by ", HoldName(*step.holds.begin()), ": ", NameOf(key))));
      }
      found.push_back(key);
    }
  }
  if (found.empty()) return Answer(call, absl::NotFoundError(absl::StrCat("no such step: ", request.step())));
  for (const StepKey& key : found) {
    StepState& step = *FindStep(key);
    if (step.row.state() == v1::STEP_STATE_DELETING) continue;
    Tell(CatalogEvent::Kind::kDeleting, key, "asked for");
    StartRemoval(key, "asked for", absl::AbortedError("step is being deleted"));
  }
  FindStep(found.back())->waiting.remove.push_back(call);
}

void CheckpointCore::State::AbortStep(uint64_t call, const v1::DeleteStepRequest& request) {
  StageState* const stage = FindStage(request.stage_uid());
  if (stage == nullptr) return Answer(call, absl::NotFoundError("stage is unknown; call OpenAttempt first"));
  if (absl::Status status = CheckFence(*stage, request.fence()); !status.ok()) return Answer(call, status);
  const StepKey key{request.stage_uid(), request.step(), request.fence()};
  const auto& given_up = stage->row.aborted_steps();
  if (std::find(given_up.begin(), given_up.end(), key.step) == given_up.end()) {
    const StepState* const step = FindStep(key);
    if (step == nullptr) return Answer(call, absl::NotFoundError(absl::StrCat("step was not begun: ", NameOf(key))));
    if (step->row.state() != v1::STEP_STATE_WRITING) {
      return Answer(call,
                    absl::FailedPreconditionError(absl::StrCat("step is not being written any more: ", NameOf(key))));
    }
    if (given_up.size() >= kAbortedStepsMax) {
      return Answer(call, absl::ResourceExhaustedError("the attempt gave up too many steps; end it"));
    }
    stage->row.add_aborted_steps(key.step);
    out.mutations.push_back(PutStage(key.stage_uid, stage->row));
    Tell(CatalogEvent::Kind::kAborted, key, "given up by a rank");
    StartRemoval(key, "given up by a rank",
                 absl::FailedPreconditionError(absl::StrCat("step was given up by a rank: ", NameOf(key))));
  }
  Answer(call, Response(v1::DeleteStepResponse()));
}

void CheckpointCore::State::Handle(uint64_t call, const v1::VerifyStepRequest& request) {
  const std::optional<StepKey> key = FindByNumber(request.stage_uid(), request.step());
  if (!key.has_value()) return Answer(call, absl::NotFoundError(absl::StrCat("no such step: ", request.step())));
  StepState& step = *FindStep(*key);
  if (step.row.state() != v1::STEP_STATE_COMPLETE && step.row.state() != v1::STEP_STATE_DAMAGED) {
    return Answer(call,
                  absl::FailedPreconditionError(absl::StrCat("step is being written or deleted: ", NameOf(*key))));
  }
  step.waiting.verify.push_back(call);
  WantVerification(*key, request.before_reuse());
}

}  // namespace vlm::checkpoint
