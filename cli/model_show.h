// `vlmctl model show`: through vlm-trainer, which knows models.
#ifndef VLM_CLI_MODEL_SHOW_H_
#define VLM_CLI_MODEL_SHOW_H_

#include <string>
#include <vector>

#include "cli/context.h"

namespace vlm::cli {

struct ModelShowArguments {
  std::string file, stage;
  std::vector<std::string> overrides;
  int ranks = 0;  // 0: the most that the stage may have
};

// The exit code of vlm-trainer; NOT_FOUND when it is not beside vlmctl.
absl::StatusOr<int> ModelShow(const Context& context, const ModelShowArguments& arguments);

// Runs vlm-trainer, which must be beside vlmctl, with our standard streams; its exit code. NOT_FOUND says where it was
// looked for.
absl::StatusOr<int> RunTrainer(const Context& context, const std::vector<std::string>& arguments);

}  // namespace vlm::cli

#endif  // VLM_CLI_MODEL_SHOW_H_
