// The operating system's files as an injected dependency, with the calls durability is made of.
//
// Paths are absolute or relative to the process. Errors carry the path in the message and follow
// ErrnoStatus (NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED for a full disk, INTERNAL).
#ifndef VLM_BASE_FILE_SYSTEM_H_
#define VLM_BASE_FILE_SYSTEM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace vlm {

// Written from the front to the end by one thread. The destructor closes without syncing.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual absl::Status Append(std::span<const std::byte> bytes) = 0;
  // Reserves disk space for `bytes` in all, so that a full disk shows before the first write.
  virtual absl::Status Reserve(uint64_t bytes) = 0;
  // Durable contents on OK. After an error the file's contents are lost: never retry Sync, write anew.
  virtual absl::Status Sync() = 0;
  virtual absl::Status Close() = 0;
};

// Any number of threads may read at once.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  virtual uint64_t size() const = 0;
  // Fills `out` from `offset`; OUT_OF_RANGE when the file ends before.
  virtual absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const = 0;
  // Drops the file's clean pages from the page cache, so that the next read meets the disk.
  virtual void DropCache() const = 0;
};

struct FileInfo {
  uint64_t bytes = 0;
  bool is_directory = false;
  uint64_t links = 0;       // number of hard links
  bool is_symlink = false;  // `path` itself is a symbolic link; the other fields describe its target
};

// Thread-safe. Nothing but Sync and SyncDirectory promises durability.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // Fails with ALREADY_EXISTS when `path` exists: a path has one writer and is never reused.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) = 0;
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) = 0;
  // Replaces `to` atomically when it exists.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status Link(const std::string& from, const std::string& to) = 0;
  virtual absl::Status Remove(const std::string& path) = 0;           // a file
  virtual absl::Status RemoveDirectory(const std::string& path) = 0;  // an empty folder
  virtual absl::Status MakeDirectory(const std::string& path) = 0;    // its parent must exist
  virtual absl::Status SyncDirectory(const std::string& path) = 0;
  // Names (not paths) in the folder, sorted. NOT_FOUND where none is, also where a file stands.
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& path) = 0;
  // Follows a symbolic link; one whose target is missing is described as itself.
  virtual absl::StatusOr<FileInfo> Stat(const std::string& path) = 0;
  // The absolute path without symbolic links, "." and ".."; NOT_FOUND when it does not exist.
  virtual absl::StatusOr<std::string> Canonical(const std::string& path) = 0;
  virtual absl::StatusOr<uint64_t> FreeBytes(const std::string& path) = 0;
};

// The machine's files; lives as long as the process.
FileSystem* PosixFileSystem();

// The folder that holds `path`: "." for a bare name, "/" at the top.
std::string ParentPath(const std::string& path);

// Makes `path` and every missing parent, syncing each new folder's parent.
absl::Status MakeDirectories(FileSystem* files, const std::string& path);

// Reads a whole file; OUT_OF_RANGE when it is larger than `bytes_max`.
absl::StatusOr<std::string> ReadFile(FileSystem* files, const std::string& path, uint64_t bytes_max);

// Writes `contents` so that after a crash `path` holds either the old contents or the new, whole:
// temporary file in the same folder, Sync, Rename, SyncDirectory.
absl::Status WriteFileDurably(FileSystem* files, const std::string& path, std::string_view contents);

// Removes a folder and everything in it. Not atomic; NOT_FOUND is OK. A symbolic link is removed, never followed.
absl::Status RemoveTree(FileSystem* files, const std::string& path);

}  // namespace vlm

#endif  // VLM_BASE_FILE_SYSTEM_H_
