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

}  // namespace vlm::cli

#endif  // VLM_CLI_MODEL_SHOW_H_
