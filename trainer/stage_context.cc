#include "trainer/stage_context.h"

#include "data/record_file.h"
#include "trainer/exit_code.h"

namespace vlm::trainer {

absl::StatusOr<InputArtifact> StageContext::Input(const std::string& name) const {
  for (const InputArtifact& input : assignment->inputs) {
    if (input.stage == name) return input;
  }
  return absl::NotFoundError("the attempt was given no artifact of stage: " + name);
}

absl::StatusOr<std::vector<std::string>> StageContext::DataFiles(const std::string& pattern) const {
  absl::StatusOr<std::vector<std::string>> found = data::ResolvePattern(files, assignment->data_roots, pattern);
  const absl::Status& status = found.status();
  if (absl::IsNotFound(status) || absl::IsPermissionDenied(status) || absl::IsFailedPrecondition(status)) {
    return WithExitCode(status, ExitCode::kUserError);
  }
  return found;
}

std::string StageContext::StageFolder() const {
  return assignment->artifacts + "/jobs/" + assignment->job_id + "/" + assignment->stage;
}

}  // namespace vlm::trainer
