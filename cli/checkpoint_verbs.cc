#include "cli/checkpoint_verbs.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/export_folder.h"
#include "cli/human_units.h"
#include "cli/stage_choice.h"

namespace vlm::cli {
namespace {

// A verification reads every file once more, after those asked for before it: ten hours are a terabyte of a slow disk
// (30 MB/s).
constexpr absl::Duration kVerifyDeadline = absl::Hours(10);

// Whose steps are this stage's: for a reused stage, those of the stage that made the artifact. Its folder is
// <root>/jobs/<job>/<stage>/<step>.
absl::StatusOr<v1::Stage> Maker(const Context& context, const v1::Stage& stage) {
  if (stage.state() != v1::STAGE_STATE_REUSED) return stage;
  const std::vector<std::string> parts = absl::StrSplit(stage.artifact_folder(), '/', absl::SkipEmpty());
  if (parts.size() < 4 || parts[parts.size() - 4] != "jobs") {
    return absl::InternalError("the artifact's folder does not say which stage made it: " + stage.artifact_folder());
  }
  const std::string& job_id = parts[parts.size() - 3];
  VLM_ASSIGN_OR_RETURN(const v1::Job maker, context.service->GetJob(job_id));
  VLM_ASSIGN_OR_RETURN(const v1::Stage* const found, FindStage(maker, parts[parts.size() - 2]));
  return *found;
}

absl::StatusOr<v1::Job> FindJobOf(const Context& context, const std::string& job) {
  return context.service->FindJob(job);
}

absl::StatusOr<v1::Step> FindStep(const Context& context, const std::string& job, const std::string& step) {
  VLM_ASSIGN_OR_RETURN(const StepName name, ParseStepName(step));
  VLM_ASSIGN_OR_RETURN(const v1::Job found, FindJobOf(context, job));
  return FindStep(context, found, name);
}

}  // namespace

absl::StatusOr<StepName> ParseStepName(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, '@');
  StepName name;
  name.stage = parts[0];
  const bool with_step = parts.size() == 2;
  if (name.stage.empty() || parts.size() > 2 ||
      (with_step && (!absl::SimpleAtoi(parts[1], &name.step) || name.step == 0))) {
    return absl::InvalidArgumentError(absl::StrCat("expected STAGE or STAGE@STEP with a step from 1, got ", text));
  }
  return name;
}

absl::StatusOr<v1::Step> FindStep(const Context& context, const v1::Job& job, const StepName& name) {
  VLM_ASSIGN_OR_RETURN(const v1::Stage* const stage, FindStage(job, name.stage));
  VLM_ASSIGN_OR_RETURN(const v1::Stage maker, Maker(context, *stage));
  uint64_t step = name.step;
  if (step == 0) {
    v1::GetLatestRequest latest;
    latest.set_stage_uid(maker.stage_uid());
    absl::StatusOr<v1::GetLatestResponse> found =
        context.service->Call<v1::GetLatestResponse>("/vlm.v1.CheckpointService/GetLatest", latest);
    if (absl::IsNotFound(found.status())) {
      return absl::NotFoundError(
          absl::StrCat("the stage has no complete checkpoint; it is ", Word(stage->state()), ": ", name.stage));
    }
    if (!found.ok()) return found.status();
    step = found->step().step();
  }
  v1::GetStepRequest request;
  request.set_stage_uid(maker.stage_uid());
  request.set_step(step);
  absl::StatusOr<v1::GetStepResponse> response =
      context.service->Call<v1::GetStepResponse>("/vlm.v1.CheckpointService/GetStep", request);
  if (absl::IsNotFound(response.status())) {
    return absl::NotFoundError(absl::StrCat("no such checkpoint; `vlmctl checkpoint list ", job.job_id(),
                                            "` shows them: ", name.stage, "@", step));
  }
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_step());
}

VerbResult ListCheckpoints(const Context& context, const std::string& job) {
  VLM_ASSIGN_OR_RETURN(const v1::Job found, FindJobOf(context, job));
  v1::ListStepsRequest request;
  request.set_job_id(found.job_id());
  VLM_ASSIGN_OR_RETURN(const v1::ListStepsResponse steps,
                       context.service->Call<v1::ListStepsResponse>("/vlm.v1.CheckpointService/ListSteps", request));
  if (context.format != OutputFormat::kTable) return PrintMessage(context, steps);
  context.terminal->Write(StepListText(steps, context.View()));
  for (const v1::Stage& stage : found.stages()) {
    if (stage.state() == v1::STAGE_STATE_REUSED) {
      context.terminal->Line(absl::StrCat(stage.name(), " is reused from ", stage.artifact_folder()));
    }
  }
  return ExitCode::kOk;
}

VerbResult ShowCheckpoint(const Context& context, const std::string& job, const std::string& step) {
  VLM_ASSIGN_OR_RETURN(const v1::Step found, FindStep(context, job, step));
  if (context.format != OutputFormat::kTable) return PrintMessage(context, found);
  context.terminal->Write(StepText(found, context.View()));
  return ExitCode::kOk;
}

VerbResult VerifyCheckpoint(const Context& context, const std::string& job, const std::string& step) {
  VLM_ASSIGN_OR_RETURN(const v1::Step found, FindStep(context, job, step));
  // To standard error: it may take hours, and the answer is what comes after.
  context.terminal->Error(absl::StrCat("reading ", HumanBytes(found.bytes()), " again: ", found.folder()));
  v1::VerifyStepRequest request;
  request.set_stage_uid(found.stage_uid());
  request.set_step(found.step());
  VLM_ASSIGN_OR_RETURN(const v1::VerifyStepResponse response,
                       context.service->Call<v1::VerifyStepResponse>("/vlm.v1.CheckpointService/VerifyStep", request,
                                                                     kShortPatience, kVerifyDeadline));
  const ExitCode code = response.damages().empty() ? ExitCode::kOk : ExitCode::kDamaged;
  if (context.format != OutputFormat::kTable) {
    VLM_RETURN_IF_ERROR(PrintMessage(context, response).status());
    return code;
  }
  for (const v1::VerifyStepResponse::Damage& damage : response.damages()) {
    context.terminal->Line(absl::StrCat("damaged: ", found.folder(), "/", damage.file(),
                                        damage.chunk() < 0 ? "" : absl::StrCat(", chunk ", damage.chunk()), ": ",
                                        damage.detail()));
  }
  const std::string name = absl::StrCat(found.stage(), "@", found.step());
  if (code == ExitCode::kOk) {
    context.terminal->Line(absl::StrCat(name, ": ", HumanBytes(response.bytes()), " read again, as committed"));
  } else {
    context.terminal->Line(
        absl::StrCat(name, ": ", response.damages_size(), response.damages_size() == 1 ? " damage" : " damages"));
  }
  return code;
}

VerbResult ExportCheckpoint(const Context& context, const std::string& job, const std::string& step,
                            const std::string& to) {
  VLM_ASSIGN_OR_RETURN(const v1::Step found, FindStep(context, job, step));
  const std::string name = absl::StrCat(found.stage(), "@", found.step());
  if (found.state() != v1::STEP_STATE_COMPLETE) {
    return absl::FailedPreconditionError(
        absl::StrCat("only a complete checkpoint can be exported; this one is ", Word(found.state()), ": ", name));
  }
  std::vector<checkpoint::FileClaim> claims;
  for (const v1::StepFile& file : found.files()) claims.push_back({file.name(), file.bytes(), file.digest()});
  absl::StatusOr<std::vector<checkpoint::FileClaim>> model = ModelFiles(claims);
  if (!model.ok()) return Annotate(model.status(), name);
  absl::StatusOr<Exported> exported = ExportFolder(context.files, found.folder(), *model, to);
  if (absl::IsResourceExhausted(exported.status())) {  // the disk here, not the coordinator
    return absl::InternalError(std::string(exported.status().message()));
  }
  if (!exported.ok()) return exported.status();
  context.terminal->Line(
      absl::StrCat(name, " exported: ", exported->files, " files, ", HumanBytes(exported->bytes), " in ", to));
  return ExitCode::kOk;
}

}  // namespace vlm::cli
