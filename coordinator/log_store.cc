#include "coordinator/log_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file_system.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kFilesMax = 4096;  // entries of the cache; then it is emptied and filled again on use
constexpr size_t kPathPartMax = 128;

// Closes on every path.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::Status WriteAt(const std::string& path, uint64_t offset, std::string_view data) {
  const Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (file.get() < 0) return ErrnoStatus(errno, "open log " + path);
  while (!data.empty()) {
    const ssize_t written = pwrite(file.get(), data.data(), data.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return ErrnoStatus(errno, "write log " + path);
    offset += static_cast<uint64_t>(written);
    data.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadAt(const std::string& path, uint64_t offset, size_t bytes) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (file.get() < 0) return ErrnoStatus(errno, "open log " + path);
  std::string data(bytes, '\0');
  const ssize_t read = pread(file.get(), data.data(), bytes, static_cast<off_t>(offset));
  if (read < 0) return ErrnoStatus(errno, "read log " + path);
  data.resize(static_cast<size_t>(read));
  return data;
}

// Bytes on the disk: holes do not count.
uint64_t StoredBytes(const std::filesystem::path& folder) {
  uint64_t bytes = 0;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    struct stat info{};
    if (lstat(it->path().c_str(), &info) == 0 && S_ISREG(info.st_mode)) {
      bytes += std::min<uint64_t>(static_cast<uint64_t>(info.st_size), static_cast<uint64_t>(info.st_blocks) * 512);
    }
  }
  return bytes;
}

}  // namespace

absl::Status CheckPathPart(std::string_view name) {
  const bool fits = !name.empty() && name.size() <= kPathPartMax && name[0] != '.' &&
                    std::all_of(name.begin(), name.end(), [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                             c == '_' || c == '.';
                    });
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("not the name of a job or stage: ", std::string(name)));
}

LogStore::LogStore(LogStoreOptions options) : options_(std::move(options)) {}

std::string LogStore::Path(const LogKey& key, std::string_view suffix) const {
  return absl::StrCat(options_.root, "/", key.job, "/", key.stage, "/", key.fence, "/rank-", key.rank,
                      std::string(suffix));
}

absl::StatusOr<LogStore::File*> LogStore::Open(const LogKey& key, bool make) {
  VLM_RETURN_IF_ERROR(CheckPathPart(key.job));
  VLM_RETURN_IF_ERROR(CheckPathPart(key.stage));
  if (key.rank < 0) return absl::InvalidArgumentError(absl::StrCat("no such rank: ", key.rank));
  if (const auto known = files_.find(key); known != files_.end()) return &known->second;
  const std::string path = Path(key, ".log");
  struct stat info{};
  const bool exists = stat(path.c_str(), &info) == 0;
  if (!exists && !make) {
    return absl::NotFoundError(absl::StrCat("no log of ", key.job, "/", key.stage, " attempt ", key.fence, " rank ",
                                            key.rank, "; it has written nothing yet, or its log was removed"));
  }
  if (!exists) VLM_RETURN_IF_ERROR(MakeDirectories(PosixFileSystem(), ParentPath(path)));
  File file;
  file.end = exists ? static_cast<uint64_t>(info.st_size) : 0;
  std::ifstream gaps(Path(key, ".gaps"));
  for (Gap gap; gaps >> gap.begin >> gap.end;) {
    if (gap.end <= gap.begin) continue;
    file.gaps.push_back(gap);
    file.end = std::max(file.end, gap.end);
  }
  if (files_.size() >= kFilesMax) files_.clear();
  return &(files_[key] = std::move(file));
}

absl::Status LogStore::AddGap(const LogKey& key, File* file, uint64_t begin, uint64_t end) {
  if (!file->gaps.empty() && file->gaps.back().end >= begin) {
    file->gaps.back().end = end;
  } else {
    file->gaps.push_back({begin, end});
  }
  std::string text;
  for (const Gap& gap : file->gaps) absl::StrAppend(&text, gap.begin, " ", gap.end, "\n");
  const std::string path = Path(key, ".gaps");
  std::ofstream(path + ".new", std::ios::trunc) << text;
  if (rename((path + ".new").c_str(), path.c_str()) != 0) return ErrnoStatus(errno, "write " + path);
  return absl::OkStatus();
}

uint64_t& LogStore::JobBytes(const std::string& job) {
  const auto it = job_bytes_.find(job);
  if (it != job_bytes_.end()) return it->second;
  return job_bytes_[job] = StoredBytes(absl::StrCat(options_.root, "/", job));
}

// Removes the oldest attempts' logs of the job until `bytes` more fit; false when they still do not.
bool LogStore::MakeRoom(const LogKey& key, uint64_t bytes) {
  uint64_t& used = JobBytes(key.job);
  if (used + bytes <= options_.job_bytes_max) return true;
  const std::filesystem::path job = absl::StrCat(options_.root, "/", key.job);
  std::set<std::pair<uint64_t, std::string>> attempts;  // a fence is of one stage of the job
  std::error_code error;
  for (const auto& stage : std::filesystem::directory_iterator(job, error)) {
    for (const auto& attempt : std::filesystem::directory_iterator(stage.path(), error)) {
      uint64_t fence = 0;
      if (absl::SimpleAtoi(attempt.path().filename().string(), &fence) && fence < key.fence) {
        attempts.emplace(fence, attempt.path().string());
      }
    }
  }
  for (const auto& [fence, folder] : attempts) {
    std::filesystem::remove_all(folder, error);
    std::erase_if(files_, [&, fence = fence](const auto& file) {
      return file.first.job == key.job && file.first.fence == fence;
    });
    used = StoredBytes(job);
    if (used + bytes <= options_.job_bytes_max) return true;
  }
  return false;
}

absl::StatusOr<LogStore::Appended> LogStore::Append(const LogKey& key, uint64_t offset, std::string_view data) {
  VLM_ASSIGN_OR_RETURN(File * file, Open(key, /*make=*/true));
  Appended appended;
  const uint64_t end = offset + data.size();
  if (end <= file->end) {
    appended.end = file->end;
    return appended;
  }
  if (offset < file->end) {
    data.remove_prefix(file->end - offset);
    offset = file->end;
  }
  const bool keep = file->gaps.size() < options_.gaps_max && MakeRoom(key, data.size());
  file = *Open(key, /*make=*/true);  // making room may have emptied the cache
  const uint64_t lost_until = keep ? offset : end;
  if (lost_until > file->end) {
    appended.dropped = lost_until - file->end;
    VLM_RETURN_IF_ERROR(AddGap(key, file, file->end, lost_until));
    file->end = lost_until;
  }
  if (keep && !data.empty()) {
    VLM_RETURN_IF_ERROR(WriteAt(Path(key, ".log"), offset, data));
    JobBytes(key.job) += data.size();
    appended.stored = data.size();
    file->end = end;
  }
  appended.end = file->end;
  return appended;
}

absl::StatusOr<LogStore::Piece> LogStore::Read(const LogKey& key, uint64_t offset, size_t bytes_max) {
  VLM_ASSIGN_OR_RETURN(const File* file, Open(key, /*make=*/false));
  Piece piece;
  piece.offset = offset;
  uint64_t until = file->end;
  for (const Gap& gap : file->gaps) {
    if (gap.end <= piece.offset) continue;
    if (gap.begin <= piece.offset) {
      piece.dropped += gap.end - piece.offset;
      piece.offset = gap.end;
    } else {
      until = gap.begin;
      break;
    }
  }
  if (piece.offset < until) {
    const size_t bytes = static_cast<size_t>(std::min<uint64_t>(bytes_max, until - piece.offset));
    VLM_ASSIGN_OR_RETURN(piece.data, ReadAt(Path(key, ".log"), piece.offset, bytes));
  }
  return piece;
}

}  // namespace vlm::coordinator
