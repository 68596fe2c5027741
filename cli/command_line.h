// From a command line to a verb.
#ifndef VLM_CLI_COMMAND_LINE_H_
#define VLM_CLI_COMMAND_LINE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/context.h"
#include "cli/endpoint.h"
#include "cli/service.h"

namespace vlm::cli {

// What a program gives to vlmctl. Everything outlives the call.
struct World {
  FileSystem* files = nullptr;
  const Clock* clock = nullptr;
  Interrupt* interrupt = nullptr;
  Terminal* terminal = nullptr;
  absl::TimeZone time_zone = absl::UTCTimeZone();
  std::string program_folder;
  std::string environment_coordinator;  // VLM_COORDINATOR
  std::string environment_token_file;   // VLM_TOKEN_FILE
  Service::Connect connect;
  RunProgram run_program;
  std::function<std::string()> new_request_id;
};

// Parses `arguments` (without the program's name), runs the verb and prints what there is to say. The exit status:
// cli/exit_code.h, or for `chat` that of vlm-trainer.
int Run(const World& world, const std::vector<std::string>& arguments);

// The verbs in the order of --help, as markdown: for docs/vlmctl.md.
std::string VerbsMarkdown();

}  // namespace vlm::cli

#endif  // VLM_CLI_COMMAND_LINE_H_
