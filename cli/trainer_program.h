// vlm-trainer, which does for vlmctl what needs LibTorch.
#ifndef VLM_CLI_TRAINER_PROGRAM_H_
#define VLM_CLI_TRAINER_PROGRAM_H_

#include <string>
#include <vector>

#include "cli/context.h"

namespace vlm::cli {

// Runs vlm-trainer, which must be beside vlmctl, with our standard streams; its exit code. NOT_FOUND says where it was
// looked for.
absl::StatusOr<int> RunTrainer(const Context& context, const std::vector<std::string>& arguments);

}  // namespace vlm::cli

#endif  // VLM_CLI_TRAINER_PROGRAM_H_
