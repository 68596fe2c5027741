// `vlmctl chat`: one question to a model, answered by vlm-trainer.
#ifndef VLM_CLI_CHAT_H_
#define VLM_CLI_CHAT_H_

#include <string>

#include "cli/context.h"

namespace vlm::cli {

struct ChatArguments {
  std::string model;  // a folder; or
  std::string job;    // a job's stage
  std::string stage;  // empty: the last training stage with an artifact; a stage that still runs: its newest step
  std::string image;
  std::string prompt;
  int max_tokens = 0;  // 0: vlm-trainer's default
};

// vlm-trainer's exit code. NOT_FOUND when it is not beside vlmctl.
absl::StatusOr<int> Chat(const Context& context, const ChatArguments& arguments);

}  // namespace vlm::cli

#endif  // VLM_CLI_CHAT_H_
