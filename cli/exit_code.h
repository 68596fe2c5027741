// What vlmctl's exit status says. One table: --help, docs/vlmctl.md and the code read it.
#ifndef VLM_CLI_EXIT_CODE_H_
#define VLM_CLI_EXIT_CODE_H_

#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace vlm::cli {

enum class ExitCode : int {
  kOk = 0,
  kJobFailed = 1,
  kUsage = 2,
  kNotFound = 3,
  kInvalidJobFile = 4,
  kUnreachable = 5,
  kJobCancelled = 6,
  kDamaged = 7,
  kRefused = 8,
  kWrongState = 9,
  kTimeout = 10,
  kFailed = 11,
  kInterrupted = 130,
};

struct ExitCodeRow {
  ExitCode code;
  std::string_view meaning;
};

// By code.
std::span<const ExitCodeRow> ExitCodeTable();

// For an error that no verb gives a code of its own.
ExitCode ExitCodeOf(const absl::Status& status);

std::string ExitCodesHelp();      // the end of --help
std::string ExitCodesMarkdown();  // the table of docs/vlmctl.md

}  // namespace vlm::cli

#endif  // VLM_CLI_EXIT_CODE_H_
