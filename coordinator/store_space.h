// Room on the disk of the coordinator's databases: new jobs are refused before it is full, and a reserve is kept for
// opening the databases when it was full all the same.
#ifndef VLM_COORDINATOR_STORE_SPACE_H_
#define VLM_COORDINATOR_STORE_SPACE_H_

#include <cstdint>
#include <string>

#include "base/file_system.h"
#include "base/status.h"

namespace vlm::coordinator {

struct StoreSpaceOptions {
  std::string folder;  // the state folder: its disk holds both databases
  // With less free space than this no job is taken; what runs goes on, its commits are small. Above the logs and
  // buffers that both databases may write before they give space back. 0: no floor.
  uint64_t floor_bytes = 256u << 20;
  // Reserved in the file `ballast`; given up at a start with less than the floor free. 0: none.
  uint64_t ballast_bytes = 64u << 20;
};

inline constexpr char kBallastFile[] = "ballast";

// Thread-safe.
class StoreSpace {
 public:
  StoreSpace(FileSystem* files, StoreSpaceOptions options) : files_(files), options_(std::move(options)) {}

  // Before the databases are opened; the folder exists. Removes the ballast where less than the floor is free; makes
  // it where it is missing and there is room for it beside the floor. True: the disk was full and the ballast was
  // given up. Errors of the file system, but a disk that is full.
  absl::StatusOr<bool> Prepare() const;

  // OK when a new job may be stored. RESOURCE_EXHAUSTED, naming the folder, what is free and what is needed.
  absl::Status CheckFloor() const;

 private:
  absl::Status MakeBallast(const std::string& path) const;

  FileSystem* const files_;
  const StoreSpaceOptions options_;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_STORE_SPACE_H_
