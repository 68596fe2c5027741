// The folders below which jobs may write, as the coordinator sees them.
#ifndef VLM_COORDINATOR_ARTIFACT_ROOTS_H_
#define VLM_COORDINATOR_ARTIFACT_ROOTS_H_

#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"

namespace vlm::coordinator {

// Thread-safe; WriteNonce and CheckReal block on the disk.
class ArtifactRoots {
 public:
  // `allowed` are absolute folders that exist. `store_uuid` (hex) names this coordinator's nonce files.
  ArtifactRoots(FileSystem* files, std::vector<std::string> allowed, std::string store_uuid);

  // Of the text alone: OK when `folder` is absolute, has no empty, "." or ".." part, and lies at or beneath an allowed
  // root; INVALID_ARGUMENT, naming the allowed ones, else.
  absl::Status CheckText(const std::string& folder) const;

  struct Nonce {
    std::string file;  // relative to the root
    std::string bytes;
  };
  // Makes `root` where it is missing and writes a new nonce into this coordinator's nonce file there. Workers
  // prove by reading it that they see the same folder. PERMISSION_DENIED when `root` leads, through a symbolic
  // link, outside the allowed roots; else errors of the file system.
  absl::StatusOr<Nonce> WriteNonce(const std::string& root) const;

 private:
  absl::Status CheckReal(const std::string& root) const;

  FileSystem* const files_;
  const std::vector<std::string> allowed_;
  const std::string store_uuid_;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_ARTIFACT_ROOTS_H_
