// Files that stay the same from step to step, frozen weights: written once, then linked into each later step.
#ifndef VLM_CHECKPOINT_CLIENT_CARRIED_FILES_H_
#define VLM_CHECKPOINT_CLIENT_CARRIED_FILES_H_

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/mutex.h"
#include "base/status.h"
#include "checkpoint/format/durable_file.h"

namespace vlm::checkpoint {

// Thread-safe. The link count of the file system is the reference: a step that is deleted takes only its own names.
class CarriedFiles {
 public:
  // Those of `written`, durable in `folder`, whose names are in `names` (sorted).
  void Remember(const std::string& folder, std::span<const FileClaim> written, std::span<const std::string> names);

  // Makes every remembered file, with its sums, stand in `folder` too, durably. The result names those that do; one
  // that cannot be linked (its step was deleted, the file system has no links) is forgotten and must be written again.
  // Errors of taking a half-linked file back and of syncing the folder.
  absl::StatusOr<std::vector<FileClaim>> LinkInto(FileSystem* files, const std::string& folder);

 private:
  struct Source {
    std::string folder;
    FileClaim claim;
  };
  // Unless another folder's was remembered meanwhile.
  void Forget(const std::string& name, const std::string& folder);

  Mutex mutex_;  // not held while files are touched: Remember never waits for a disk
  std::map<std::string, Source> known_ ABSL_GUARDED_BY(mutex_);  // by name
};

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_CLIENT_CARRIED_FILES_H_
