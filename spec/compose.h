// From a job file on disk, the files it extends and `--set` overrides to one composed document.
#ifndef VLM_SPEC_COMPOSE_H_
#define VLM_SPEC_COMPOSE_H_

#include <optional>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "spec/diagnostic.h"

namespace vlm::spec {

// Files one job may extend, in all, and how deep.
inline constexpr int kExtendedFilesMax = 32;

// Reads `path` and what it extends (paths relative to the file that names them; later files win over earlier
// ones, the file itself over all; maps merge, lists and scalars replace), then applies `overrides` in order.
// An override is "path=value" with a path from the root ("spec.stages[sft].train.lr=1e-5"; list entries by
// their name or by number from 0) and a YAML value. A null value removes a key.
// Then `index` stages that training stages leave out are inserted.
//
// Answers the composed YAML with every default filled in and "# from file:line" behind each value, ready for
// ParseJob; it is what `vlmctl render` prints and `vlmctl submit` sends. Nothing when `diagnostics` got an
// error; the composed job has passed every check of ParseJob.
// Blocks on files. Thread-safe.
std::optional<std::string> Compose(FileSystem* files, const std::string& path,
                                   const std::vector<std::string>& overrides, Diagnostics* diagnostics);

}  // namespace vlm::spec

#endif  // VLM_SPEC_COMPOSE_H_
