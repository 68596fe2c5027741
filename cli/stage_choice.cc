#include "cli/stage_choice.h"

#include "absl/strings/str_cat.h"
#include "cli/job_views.h"

namespace vlm::cli {

absl::StatusOr<const v1::Stage*> FindStage(const v1::Job& job, const std::string& name) {
  std::string known;
  for (const v1::Stage& stage : job.stages()) {
    if (stage.name() == name) return &stage;
    absl::StrAppend(&known, known.empty() ? "" : ", ", stage.name());
  }
  return absl::NotFoundError(absl::StrCat("the job ", job.job_id(), " has no such stage (it has ", known, "): ", name));
}

absl::StatusOr<const v1::Stage*> StageOfInterest(const v1::Job& job) {
  const v1::Stage *failed = nullptr, *attempted = nullptr;
  for (const v1::Stage& stage : job.stages()) {
    if (stage.state() == v1::STAGE_STATE_ACTIVE) return &stage;
    if (stage.state() == v1::STAGE_STATE_FAILED && failed == nullptr) failed = &stage;
    if (stage.fence() > 0) attempted = &stage;
  }
  if (failed != nullptr) return failed;
  if (attempted != nullptr) return attempted;
  if (job.stages().empty()) return absl::NotFoundError("the job has no stages: " + job.job_id());
  return &job.stages(0);
}

absl::StatusOr<const v1::Stage*> LastModelStage(const v1::Job& job) {
  const v1::Stage* last = nullptr;
  for (const v1::Stage& stage : job.stages()) {
    if (IsTraining(stage.kind()) && !stage.artifact_folder().empty()) last = &stage;
  }
  if (last != nullptr) return last;
  return absl::FailedPreconditionError(
      "no training stage of the job has finished yet; name one with --stage to use "
      "its newest checkpoint: " +
      job.job_id());
}

}  // namespace vlm::cli
