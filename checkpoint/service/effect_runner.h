// Performs the core's effects on a FileSystem.
#ifndef VLM_CHECKPOINT_SERVICE_EFFECT_RUNNER_H_
#define VLM_CHECKPOINT_SERVICE_EFFECT_RUNNER_H_

#include <string>
#include <utility>
#include <vector>

#include "base/file_system.h"
#include "checkpoint/core/checkpoint_core.h"

namespace vlm::checkpoint {

struct EffectRunnerOptions {
  std::vector<std::string> allowed_roots;  // artifact roots lie at or beneath one of these
  std::string catalog_uuid;                // hex; stands in each root's CATALOG file
};

// Thread-safe; blocks on the disk.
class EffectRunner {
 public:
  EffectRunner(FileSystem* files, EffectRunnerOptions options) : files_(files), options_(std::move(options)) {}

  // The status: PERMISSION_DENIED for a root outside the allowed list or a path that leaves its root through a
  // symbolic link; FAILED_PRECONDITION for a root that belongs to another catalog; RESOURCE_EXHAUSTED when the
  // disk has too little space; else that of the file system. `delay` is the caller's to keep.
  EffectResult Run(const Effect& effect) const;

 private:
  absl::Status CheckAllowed(const std::string& root) const;
  absl::Status CheckOurs(const std::string& root) const;
  absl::Status CheckNoLinks(const Effect& effect, const std::string& folder) const;
  absl::Status PrepareRoot(const std::string& root) const;
  absl::Status MakeFolder(const Effect& effect) const;
  absl::Status RemoveFolder(const Effect& effect) const;
  absl::Status WriteCommitted(const Effect& effect) const;
  absl::Status Look(const Effect& effect, EffectResult* result) const;

  FileSystem* const files_;
  const EffectRunnerOptions options_;
};

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_SERVICE_EFFECT_RUNNER_H_
