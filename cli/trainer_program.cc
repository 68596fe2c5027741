#include "cli/trainer_program.h"

#include "absl/strings/str_cat.h"

namespace vlm::cli {

absl::StatusOr<int> RunTrainer(const Context& context, const std::vector<std::string>& arguments) {
  const std::string trainer = absl::StrCat(context.program_folder, "/vlm-trainer");
  if (!context.files->Stat(trainer).ok()) {
    return absl::NotFoundError(absl::StrCat("vlm-trainer must be beside vlmctl; there is no ", trainer));
  }
  return context.run_program(trainer, arguments);
}

}  // namespace vlm::cli
