#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/direct_io.h"
#include "base/file_system.h"

namespace vlm {
namespace {

absl::Status PathError(std::string_view action, const std::string& path) {
  const int error_number = errno;
  return ErrnoStatus(error_number, absl::StrCat(absl::string_view(action.data(), action.size()), " ", path));
}

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~PosixWritableFile() override {
    if (fd_ < 0) return;
    FinishDirect().IgnoreError();  // as far as it goes, nobody has asked for durability
    close(fd_);
  }

  absl::Status Append(std::span<const std::byte> bytes) override {
    if (std::exchange(begin_direct_, false)) direct_ = DirectWriter::Create(fd_, path_);
    return direct_ != nullptr ? direct_->Append(bytes) : WriteFully(fd_, path_, bytes);
  }

  absl::Status Reserve(uint64_t bytes) override {
    if (bytes == 0) return absl::OkStatus();
    // KEEP_SIZE: the file's length stays what was written. A file system without it has nothing to reserve.
    if (fallocate(fd_, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes)) != 0 && errno != EOPNOTSUPP) {
      return PathError("reserve space for", path_);
    }
    begin_direct_ = bytes >= kDirectBytesMin && direct_ == nullptr && lseek(fd_, 0, SEEK_CUR) == 0;
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    VLM_RETURN_IF_ERROR(FinishDirect());
    return fsync(fd_) == 0 ? absl::OkStatus() : PathError("fsync", path_);
  }

  absl::Status Close() override {
    const absl::Status written = FinishDirect();
    const int fd = fd_;
    fd_ = -1;
    const absl::Status closed = close(fd) == 0 ? absl::OkStatus() : PathError("close", path_);
    return written.ok() ? closed : written;
  }

 private:
  // What is appended afterwards goes through the page cache.
  absl::Status FinishDirect() {
    if (direct_ == nullptr) return absl::OkStatus();
    const absl::Status finished = direct_->Finish();
    direct_.reset();
    return finished;
  }

  int fd_;
  const std::string path_;
  bool begin_direct_ = false;  // with the first Append
  std::unique_ptr<DirectWriter> direct_;
};

class PosixReadableFile final : public ReadableFile {
 public:
  PosixReadableFile(int fd, uint64_t size, std::string path) : fd_(fd), size_(size), path_(std::move(path)) {}
  ~PosixReadableFile() override {
    close(fd_);
    if (direct_fd_ >= 0) close(direct_fd_);
  }

  uint64_t size() const override { return size_; }

  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    if (const size_t filled = TryDirect(offset, out); filled > 0) {
      out = out.subspan(filled);
      offset += filled;
    }
    while (!out.empty()) {
      const ssize_t count = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (count < 0) {
        if (errno == EINTR) continue;
        return PathError("read", path_);
      }
      if (count == 0) return absl::OutOfRangeError(absl::StrCat("read past the end of ", path_));
      out = out.subspan(static_cast<size_t>(count));
      offset += static_cast<uint64_t>(count);
    }
    return absl::OkStatus();
  }

  void DropCache() const override { posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }

 private:
  // Bytes read past the page cache.
  size_t TryDirect(uint64_t offset, std::span<std::byte> out) const {
    const bool aligned = (offset | reinterpret_cast<uintptr_t>(out.data())) % kDirectAlignment == 0;
    if (!aligned || out.size() < kDirectReadBytesMin) return 0;
    std::call_once(direct_once_, [this] {
      // By the descriptor: the path may name another file by now.
      direct_fd_ = open(absl::StrCat("/proc/self/fd/", fd_).c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
    });
    return direct_fd_ < 0 ? 0 : ReadDirect(direct_fd_, offset, out);
  }

  const int fd_;
  mutable std::once_flag direct_once_;
  mutable int direct_fd_ = -1;  // -1 before the first large read, and where it is not offered
  const uint64_t size_;
  const std::string path_;
};

class PosixFiles final : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) return PathError("create", path);
    return std::make_unique<PosixWritableFile>(fd, path);
  }

  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return PathError("open", path);
    struct stat info{};
    const bool known = fstat(fd, &info) == 0;
    if (!known || S_ISDIR(info.st_mode)) {
      if (known) errno = EISDIR;
      absl::Status error = PathError("open", path);
      close(fd);
      return error;
    }
    return std::make_unique<PosixReadableFile>(fd, static_cast<uint64_t>(info.st_size), path);
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    return rename(from.c_str(), to.c_str()) == 0 ? absl::OkStatus()
                                                 : PathError(absl::StrCat("rename to ", to, " from"), from);
  }
  absl::Status Link(const std::string& from, const std::string& to) override {
    return link(from.c_str(), to.c_str()) == 0 ? absl::OkStatus()
                                               : PathError(absl::StrCat("link as ", to, " the file"), from);
  }
  absl::Status Remove(const std::string& path) override {
    return unlink(path.c_str()) == 0 ? absl::OkStatus() : PathError("remove", path);
  }
  absl::Status RemoveDirectory(const std::string& path) override {
    return rmdir(path.c_str()) == 0 ? absl::OkStatus() : PathError("remove folder", path);
  }
  absl::Status MakeDirectory(const std::string& path) override {
    return mkdir(path.c_str(), 0755) == 0 ? absl::OkStatus() : PathError("make folder", path);
  }

  absl::Status SyncDirectory(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return PathError("open folder", path);
    const absl::Status status = fsync(fd) == 0 ? absl::OkStatus() : PathError("fsync folder", path);
    close(fd);
    return status;
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    DIR* const folder = opendir(path.c_str());
    if (folder == nullptr && errno == ENOTDIR) return absl::NotFoundError(absl::StrCat("list ", path, ": no folder"));
    if (folder == nullptr) return PathError("list", path);
    std::vector<std::string> names;
    errno = 0;  // readdir tells its end and its failure apart only by errno
    while (const dirent* entry = readdir(folder)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    const absl::Status status = errno == 0 ? absl::OkStatus() : PathError("list", path);
    closedir(folder);
    VLM_RETURN_IF_ERROR(status);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::StatusOr<FileInfo> Stat(const std::string& path) override {
    struct stat info;
    if (lstat(path.c_str(), &info) != 0) return PathError("stat", path);
    const bool is_symlink = S_ISLNK(info.st_mode);
    struct stat target;
    if (is_symlink && stat(path.c_str(), &target) == 0) info = target;
    return FileInfo{static_cast<uint64_t>(info.st_size), S_ISDIR(info.st_mode), static_cast<uint64_t>(info.st_nlink),
                    is_symlink};
  }

  absl::StatusOr<std::string> Canonical(const std::string& path) override {
    const std::unique_ptr<char, decltype(&std::free)> resolved(realpath(path.c_str(), nullptr), &std::free);
    if (resolved == nullptr) return PathError("resolve", path);
    return std::string(resolved.get());
  }

  absl::StatusOr<uint64_t> FreeBytes(const std::string& path) override {
    struct statvfs info;
    if (statvfs(path.c_str(), &info) != 0) return PathError("stat the disk of", path);
    return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  }
};

}  // namespace

FileSystem* PosixFileSystem() {
  static PosixFiles files;
  return &files;
}

}  // namespace vlm
