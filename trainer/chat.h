// One question to a model folder, from the command line.
#ifndef VLM_TRAINER_CHAT_H_
#define VLM_TRAINER_CHAT_H_

#include <string>

#include "base/status.h"

namespace vlm::trainer {

struct ChatOptions {
  std::string model_folder;
  std::string image;  // path; empty: no picture
  std::string prompt;
  int max_tokens = 64;
  int threads = 1;
};

// The answer; a line on stderr tells when the model's context cut it. Errors name the file or folder;
// nothing is thrown.
absl::StatusOr<std::string> Chat(const ChatOptions& options);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_CHAT_H_
