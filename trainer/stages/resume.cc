#include "trainer/stages/resume.h"

#include "absl/strings/str_cat.h"
#include "checkpoint/format/durable_file.h"
#include "checkpoint/format/safetensors_folder.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_state.h"
#include "trainer/exit_code.h"

namespace vlm::trainer {
namespace {

constexpr uint64_t kOptimizerJsonBytesMax = uint64_t{1} << 30;
// The rank is in the phase of loading, whose budget this must not exceed (coordinator/core/options.h).
constexpr absl::Duration kVerifyDeadline = absl::Minutes(9);

// What was committed and is gone is damage, not a wrong path.
absl::Status MissingIsDamage(const absl::Status& status) {
  return absl::IsNotFound(status) ? absl::DataLossError(status.message()) : status;
}

absl::StatusOr<std::unique_ptr<checkpoint::SafetensorsFolder>> OpenCommitted(const StageContext& context,
                                                                             const std::string& stem) {
  absl::StatusOr<std::unique_ptr<checkpoint::SafetensorsFolder>> opened = checkpoint::SafetensorsFolder::Open(
      context.files, context.assignment->resume_folder, {.stem = stem, .require_sums = true});
  if (!opened.ok()) return MissingIsDamage(opened.status());
  return opened;
}

}  // namespace

absl::StatusOr<std::string> ReadResumeFile(const StageContext& context, const std::string& name, uint64_t bytes_max) {
  return checkpoint::ReadCommittedFile(context.files, context.assignment->resume_folder + "/" + name, bytes_max);
}

absl::Status LoadResume(const StageContext& context, train::ParameterStore* store) {
  VLM_ASSIGN_OR_RETURN(const auto weights, OpenCommitted(context, "model"));
  VLM_ASSIGN_OR_RETURN(const auto optimizer, OpenCommitted(context, "optimizer"));
  VLM_ASSIGN_OR_RETURN(const std::string json,
                       ReadResumeFile(context, std::string(train::kOptimizerJson), kOptimizerJsonBytesMax));
  const absl::Status loaded = Annotate(train::LoadState(train::NewFolderSource(weights.get()).get(),
                                                        train::NewFolderSource(optimizer.get()).get(), json, store),
                                       "state of " + context.assignment->resume_folder);
  return absl::IsInvalidArgument(loaded) ? WithExitCode(loaded, ExitCode::kIncompatible) : loaded;
}

absl::Status AskForFallback(const StageContext& context, const absl::Status& error) {
  if (!absl::IsDataLoss(error)) return error;
  const Assignment& assignment = *context.assignment;
  const absl::StatusOr<checkpoint::VerifiedStep> looked = context.checkpoints->VerifyStep(
      assignment.stage_uid, assignment.resume_step, kVerifyDeadline, /*before_others=*/true);
  std::string outcome;
  if (!looked.ok()) {
    outcome = absl::StrCat("the checkpoint service could not look: ", looked.status().message());
  } else if (looked->damages.empty()) {
    outcome = "the checkpoint service reads it as it was committed; look at the disk and memory of this rank's machine";
  } else {
    outcome = "the checkpoint service finds it damaged too; the next attempt resumes from the step before";
  }
  return absl::DataLossError(
      absl::StrCat("cannot resume from step ", assignment.resume_step, ": ", error.message(), "; ", outcome));
}

}  // namespace vlm::trainer
