// What every verb works with.
#ifndef VLM_CLI_CONTEXT_H_
#define VLM_CLI_CONTEXT_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/file_system.h"
#include "cli/exit_code.h"
#include "cli/interrupt.h"
#include "cli/job_views.h"
#include "cli/message_text.h"
#include "cli/service.h"
#include "cli/terminal.h"

namespace vlm::cli {

// Runs a program with our standard streams and waits for it; its exit code, or 128 + signal. NOT_FOUND when there is
// no such program. `arguments` without the program's own name.
using RunProgram =
    std::function<absl::StatusOr<int>(const std::string& path, const std::vector<std::string>& arguments)>;

// Everything outlives the verb.
struct Context {
  FileSystem* files = nullptr;
  const Clock* clock = nullptr;
  Interrupt* interrupt = nullptr;
  Terminal* terminal = nullptr;
  Service* service = nullptr;
  OutputFormat format = OutputFormat::kTable;
  absl::TimeZone time_zone = absl::UTCTimeZone();
  std::string program_folder;  // where vlmctl and vlm-trainer are
  RunProgram run_program;
  std::function<std::string()> new_request_id;  // unpredictable, 32 hex digits

  ViewOptions View() const { return {clock->Wall(), time_zone, terminal->columns()}; }
};

// A verb's end: an exit code, or an error that becomes one (ExitCodeOf) after its message was printed.
using VerbResult = absl::StatusOr<ExitCode>;

// Prints `message` as JSON or YAML.
VerbResult PrintMessage(const Context& context, const google::protobuf::Message& message);

}  // namespace vlm::cli

#endif  // VLM_CLI_CONTEXT_H_
