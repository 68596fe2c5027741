#include "cli/model_show.h"

#include "absl/strings/str_cat.h"
#include "cli/trainer_program.h"

namespace vlm::cli {

absl::StatusOr<int> ModelShow(const Context& context, const ModelShowArguments& arguments) {
  std::vector<std::string> command = {"model", arguments.file};
  if (!arguments.stage.empty()) command.insert(command.end(), {"--stage", arguments.stage});
  if (arguments.ranks > 0) command.insert(command.end(), {"--ranks", absl::StrCat(arguments.ranks)});
  for (const std::string& override : arguments.overrides) command.insert(command.end(), {"--set", override});
  return RunTrainer(context, command);
}

}  // namespace vlm::cli
