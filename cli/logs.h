// `vlmctl logs`: what one rank of a stage wrote.
#ifndef VLM_CLI_LOGS_H_
#define VLM_CLI_LOGS_H_

#include <string>

#include "cli/context.h"

namespace vlm::cli {

struct LogsArguments {
  std::string job;
  std::string stage;  // empty: the one that runs, else the first that failed, else the last that ran
  int rank = 0;
  bool follow = false;  // stays until the stage has ended, through its further attempts
};

// FAILED_PRECONDITION when the stage has no attempt yet and `follow` is off. NOT_FOUND for an unknown stage, naming
// the job's stages.
VerbResult Logs(const Context& context, const LogsArguments& arguments);

}  // namespace vlm::cli

#endif  // VLM_CLI_LOGS_H_
