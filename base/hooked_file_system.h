// A file system that asks a hook before every call: to slow it down, to fail it, or to count it. For tests of
// what must keep going, or give up cleanly, when the disk does not.
#ifndef VLM_BASE_HOOKED_FILE_SYSTEM_H_
#define VLM_BASE_HOOKED_FILE_SYSTEM_H_

#include <functional>
#include <memory>
#include <string>

#include "base/file_system.h"

namespace vlm {

enum class FileOperation {
  kCreate,
  kAppend,
  kReserve,
  kSync,
  kOpen,
  kRead,
  kRename,
  kLink,
  kRemove,
  kRemoveDirectory,
  kMakeDirectory,
  kSyncDirectory,
  kList,
  kStat,
};

// Called before the operation, on the caller's thread, with no lock held: it may block. An error is returned to
// the caller in place of the operation. Must be thread-safe when the file system is used by several threads.
using FileHook = std::function<absl::Status(FileOperation operation, const std::string& path)>;

// `files` must outlive the result and every file opened through it.
std::unique_ptr<FileSystem> NewHookedFileSystem(FileSystem* files, FileHook hook);

}  // namespace vlm

#endif  // VLM_BASE_HOOKED_FILE_SYSTEM_H_
