#include "cli/chat.h"

#include "absl/strings/str_cat.h"
#include "cli/checkpoint_verbs.h"
#include "cli/stage_choice.h"
#include "cli/trainer_program.h"

namespace vlm::cli {
namespace {

absl::StatusOr<std::string> ModelFolder(const Context& context, const ChatArguments& arguments) {
  if (!arguments.model.empty()) return arguments.model;
  VLM_ASSIGN_OR_RETURN(const v1::Job job, context.service->FindJob(arguments.job));
  if (arguments.stage.empty()) {
    VLM_ASSIGN_OR_RETURN(const v1::Stage* const stage, LastModelStage(job));
    return stage->artifact_folder();
  }
  VLM_ASSIGN_OR_RETURN(const v1::Stage* const stage, FindStage(job, arguments.stage));
  if (!IsTraining(stage->kind())) {
    return absl::InvalidArgumentError(
        absl::StrCat("a stage of this kind makes no model; its kind is ", stage->kind(), ": ", stage->name()));
  }
  if (!stage->artifact_folder().empty()) return stage->artifact_folder();
  VLM_ASSIGN_OR_RETURN(const v1::Step step, FindStep(context, job, {stage->name(), 0}));
  return step.folder();
}

}  // namespace

absl::StatusOr<int> Chat(const Context& context, const ChatArguments& arguments) {
  if (arguments.model.empty() && arguments.job.empty()) {
    return absl::InvalidArgumentError("which model? give --model FOLDER or --job JOB");
  }
  VLM_ASSIGN_OR_RETURN(const std::string folder, ModelFolder(context, arguments));
  std::vector<std::string> command = {"chat",          "--model",  folder,          "--image",
                                      arguments.image, "--prompt", arguments.prompt};
  if (arguments.max_tokens > 0) {
    command.push_back("--max-tokens");
    command.push_back(absl::StrCat(arguments.max_tokens));
  }
  return RunTrainer(context, command);
}

}  // namespace vlm::cli
