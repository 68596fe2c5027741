#include "trainer/stage_context.h"

namespace vlm::trainer {

absl::StatusOr<InputArtifact> StageContext::Input(const std::string& name) const {
  for (const InputArtifact& input : assignment->inputs) {
    if (input.stage == name) return input;
  }
  return absl::NotFoundError("the attempt was given no artifact of stage: " + name);
}

std::string StageContext::StageFolder() const {
  return assignment->artifacts + "/jobs/" + assignment->job_id + "/" + assignment->stage;
}

}  // namespace vlm::trainer
