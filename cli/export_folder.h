// A checkpoint step as a plain Hugging Face folder.
#ifndef VLM_CLI_EXPORT_FOLDER_H_
#define VLM_CLI_EXPORT_FOLDER_H_

#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "checkpoint/format/durable_file.h"

namespace vlm::cli {

// The files of a step that make up the model: configuration, tokenizer, processor and weights; no optimizer state and
// nothing of the service. Sorted by name. FAILED_PRECONDITION when configuration or weights are missing: no model.
absl::StatusOr<std::vector<checkpoint::FileClaim>> ModelFiles(const std::vector<checkpoint::FileClaim>& files);

struct Exported {
  uint64_t files = 0;
  uint64_t bytes = 0;
};

// Copies `files` of folder `from` into the new folder `to`, each verified against its digest while it is read, and the
// whole opened once before it gets its name: after a crash `to` exists whole or not at all. `to` must not exist
// (ALREADY_EXISTS), its parent must (NOT_FOUND). DATA_LOSS names the damaged file and chunk. On an error nothing
// stays behind.
absl::StatusOr<Exported> ExportFolder(FileSystem* file_system, const std::string& from,
                                      const std::vector<checkpoint::FileClaim>& files, const std::string& to);

}  // namespace vlm::cli

#endif  // VLM_CLI_EXPORT_FOLDER_H_
