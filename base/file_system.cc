#include "base/file_system.h"

#include <unistd.h>

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vlm {
namespace {

constexpr int kTemporaryTriesMax = 1000;  // left-over temporaries of one file; more is a fault to look at

}  // namespace

std::string ParentPath(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status MakeDirectories(FileSystem* files, const std::string& path) {
  if (path.empty() || path == "/" || path == ".") return absl::OkStatus();
  if (files->Stat(path).ok()) return absl::OkStatus();
  const std::string parent = ParentPath(path);
  VLM_RETURN_IF_ERROR(MakeDirectories(files, parent));
  const absl::Status made = files->MakeDirectory(path);
  if (!absl::IsAlreadyExists(made)) VLM_RETURN_IF_ERROR(made);  // another process may be faster, and not synced yet
  return files->SyncDirectory(parent);
}

absl::StatusOr<std::string> ReadFile(FileSystem* files, const std::string& path, uint64_t bytes_max) {
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, files->Open(path));
  if (file->size() > bytes_max) {
    return absl::OutOfRangeError(absl::StrCat("file is larger than the limit of ", bytes_max, " bytes: ", path));
  }
  std::string contents(file->size(), '\0');
  VLM_RETURN_IF_ERROR(file->ReadAt(0, std::as_writable_bytes(std::span(contents.data(), contents.size()))));
  return contents;
}

absl::Status WriteFileDurably(FileSystem* files, const std::string& path, std::string_view contents) {
  static std::atomic<uint64_t> next_temporary{0};
  std::string temporary = absl::StrCat(path, ".tmp-", getpid(), "-", next_temporary++);
  absl::StatusOr<std::unique_ptr<WritableFile>> created = files->Create(temporary);
  // A crash leaves temporaries behind, and in a container the process id comes back: step over them.
  for (int tries = 0; absl::IsAlreadyExists(created.status()) && tries < kTemporaryTriesMax; ++tries) {
    temporary = absl::StrCat(path, ".tmp-", getpid(), "-", next_temporary++);
    created = files->Create(temporary);
  }
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, std::move(created));
  absl::Status status = file->Append(std::as_bytes(std::span(contents.data(), contents.size())));
  if (status.ok()) status = file->Sync();
  if (status.ok()) status = file->Close();
  if (status.ok()) status = files->Rename(temporary, path);
  if (!status.ok()) {
    files->Remove(temporary).IgnoreError();
    return status;
  }
  return files->SyncDirectory(ParentPath(path));
}

absl::Status RemoveTree(FileSystem* files, const std::string& path) {
  absl::StatusOr<FileInfo> info = files->Stat(path);
  if (absl::IsNotFound(info.status())) return absl::OkStatus();
  VLM_RETURN_IF_ERROR(info.status());
  if (!info->is_directory || info->is_symlink) return files->Remove(path);
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> names, files->List(path));
  for (const std::string& name : names) VLM_RETURN_IF_ERROR(RemoveTree(files, absl::StrCat(path, "/", name)));
  return files->RemoveDirectory(path);
}

}  // namespace vlm
