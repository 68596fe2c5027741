// The data files of a manifest, a bounded number of them open at a time: a data set may have more files than a process
// may have descriptors.
#ifndef VLM_DATA_OPEN_FILES_H_
#define VLM_DATA_OPEN_FILES_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>

#include "base/file_system.h"
#include "base/mutex.h"
#include "base/status.h"
#include "data/manifest.h"

namespace vlm::data {

// Thread-safe; opens and closes without holding its lock.
class OpenFiles {
 public:
  // A quarter of the 1,024 descriptors that a process usually may have; what lies beyond is opened again when needed.
  static constexpr size_t kOpenMaxDefault = 256;

  // Of `open_max` (at least 1) files, the least recently used is closed for another. `files` and `manifest` must
  // outlive the object.
  OpenFiles(FileSystem* files, const Manifest* manifest, size_t open_max);

  // File `file` of the manifest. Shared, since it may be closed here while its caller still reads: with n threads at
  // most open_max + n are open. FAILED_PRECONDITION when its size is not what was indexed; else errors of
  // FileSystem::Open.
  absl::StatusOr<std::shared_ptr<const ReadableFile>> Get(uint32_t file);

 private:
  struct Entry {
    std::shared_ptr<const ReadableFile> file;
    std::list<uint32_t>::iterator place;  // in used_
  };
  std::shared_ptr<const ReadableFile> Find(uint32_t file);

  FileSystem* const files_;
  const Manifest* const manifest_;
  const size_t open_max_;
  Mutex mutex_;
  std::list<uint32_t> used_ ABSL_GUARDED_BY(mutex_);  // the latest first
  std::map<uint32_t, Entry> open_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm::data

#endif  // VLM_DATA_OPEN_FILES_H_
