// From the text of a job file to a checked job.
//
// Limits, held before anything is built from the text: 1 MiB, nesting of 32, no aliases or anchors, 64 stages.
// Every error of a file is reported, not only the first; a key or kind of a later version is an error that says
// "not supported yet". Pure and thread-safe.
#ifndef VLM_SPEC_PARSE_H_
#define VLM_SPEC_PARSE_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "spec/diagnostic.h"
#include "spec/job.h"

namespace vlm::spec {

inline constexpr size_t kJobBytesMax = 1 << 20;
inline constexpr int kDepthMax = 32;
inline constexpr int kStagesMax = 64;

// `text` is one YAML document without `extends` (compose first: spec/compose.h). Nothing when `diagnostics`
// got an error. `source` names the text in diagnostics.
std::optional<Job> ParseJob(std::string_view text, const std::string& source, Diagnostics* diagnostics);

}  // namespace vlm::spec

#endif  // VLM_SPEC_PARSE_H_
