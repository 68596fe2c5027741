// Verbs about the job file, without the coordinator.
#ifndef VLM_CLI_SPEC_VERBS_H_
#define VLM_CLI_SPEC_VERBS_H_

#include <optional>
#include <string>
#include <vector>

#include "cli/context.h"

namespace vlm::cli {

// The composed file. Nothing when it is invalid: every error was printed as "file:line:column: ...", then their count
// and `consequence`.
std::optional<std::string> ComposeOrExplain(const Context& context, const std::string& file,
                                            const std::vector<std::string>& overrides, const std::string& consequence);

VerbResult Render(const Context& context, const std::string& file, const std::vector<std::string>& overrides);
VerbResult Explain(const Context& context, const std::string& path);

}  // namespace vlm::cli

#endif  // VLM_CLI_SPEC_VERBS_H_
