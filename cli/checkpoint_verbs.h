// Verbs about checkpoints.
#ifndef VLM_CLI_CHECKPOINT_VERBS_H_
#define VLM_CLI_CHECKPOINT_VERBS_H_

#include <string>

#include "cli/context.h"
#include "vlm/v1/checkpoint.pb.h"

namespace vlm::cli {

struct StepName {
  std::string stage;
  uint64_t step = 0;  // 0: the newest complete one
};
// "sft" or "sft@500". INVALID_ARGUMENT for anything else.
absl::StatusOr<StepName> ParseStepName(const std::string& text);

// The step with its files. A reused stage's steps are those of the stage that made them. NOT_FOUND when there is none.
absl::StatusOr<v1::Step> FindStep(const Context& context, const v1::Job& job, const StepName& name);

VerbResult ListCheckpoints(const Context& context, const std::string& job);
VerbResult ShowCheckpoint(const Context& context, const std::string& job, const std::string& step);
// kDamaged when a file is not as it was committed; each damage is printed.
VerbResult VerifyCheckpoint(const Context& context, const std::string& job, const std::string& step);
VerbResult ExportCheckpoint(const Context& context, const std::string& job, const std::string& step,
                            const std::string& to);

}  // namespace vlm::cli

#endif  // VLM_CLI_CHECKPOINT_VERBS_H_
