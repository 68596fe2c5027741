// Which stage of a job a person means.
#ifndef VLM_CLI_STAGE_CHOICE_H_
#define VLM_CLI_STAGE_CHOICE_H_

#include <string>

#include "base/status.h"
#include "vlm/v1/job.pb.h"

namespace vlm::cli {

// The stage called `name`; NOT_FOUND, listing the job's stages. The pointer lives as long as `job`.
absl::StatusOr<const v1::Stage*> FindStage(const v1::Job& job, const std::string& name);

// For logs: the first that runs, else the first that failed, else the last that had an attempt, else the first.
// NOT_FOUND for a job without stages.
absl::StatusOr<const v1::Stage*> StageOfInterest(const v1::Job& job);

// For chat: the last training stage with an artifact. FAILED_PRECONDITION when there is none yet.
absl::StatusOr<const v1::Stage*> LastModelStage(const v1::Job& job);

}  // namespace vlm::cli

#endif  // VLM_CLI_STAGE_CHOICE_H_
