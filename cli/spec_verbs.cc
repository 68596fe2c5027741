#include "cli/spec_verbs.h"

#include "absl/strings/str_cat.h"
#include "spec/compose.h"
#include "spec/diagnostic.h"
#include "spec/schema.h"

namespace vlm::cli {

std::optional<std::string> ComposeOrExplain(const Context& context, const std::string& file,
                                            const std::vector<std::string>& overrides, const std::string& consequence) {
  spec::Diagnostics diagnostics;
  std::optional<std::string> composed = spec::Compose(context.files, file, overrides, &diagnostics);
  if (composed) return composed;
  for (const spec::Diagnostic& diagnostic : diagnostics.all()) context.terminal->Error(diagnostic.ToString());
  if (diagnostics.dropped() > 0) context.terminal->Error(absl::StrCat("... and ", diagnostics.dropped(), " more"));
  context.terminal->Error(absl::StrCat(diagnostics.count(), diagnostics.count() == 1 ? " error" : " errors", "; ",
                                       consequence, ": ", file));
  return std::nullopt;
}

VerbResult Render(const Context& context, const std::string& file, const std::vector<std::string>& overrides) {
  const std::optional<std::string> composed = ComposeOrExplain(context, file, overrides, "nothing is rendered");
  if (!composed) return ExitCode::kInvalidJobFile;
  context.terminal->Write(*composed);
  return ExitCode::kOk;
}

VerbResult Explain(const Context& context, const std::string& path) {
  VLM_ASSIGN_OR_RETURN(const std::string text, spec::Explain(path));
  context.terminal->Write(text);
  if (!text.empty() && text.back() != '\n') context.terminal->Write("\n");
  return ExitCode::kOk;
}

}  // namespace vlm::cli
