#include "coordinator/log_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file_system.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kFilesMax = 4096;  // entries of the cache; then it is emptied and filled again on use
constexpr size_t kPathPartMax = 128;
constexpr uint64_t kSlackOfTotal = 16;   // when all logs are at their limit, one part in so many is freed at once
constexpr size_t kLooksSkipped = 1'000;  // chunks dropped without a look after one that found nothing to remove

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

uint64_t& LogStore::AttemptBytes(const LogKey& key) {
  const LogKey attempt{key.job, key.stage, key.fence, 0};
  const auto it = attempt_bytes_.find(attempt);
  if (it != attempt_bytes_.end()) return it->second;
  if (attempt_bytes_.size() >= kFilesMax) attempt_bytes_.clear();
  return attempt_bytes_[attempt] = StoredBytes(ParentPath(Path(attempt, "")));
}

uint64_t& LogStore::TotalBytes() {
  if (!total_bytes_.has_value()) total_bytes_ = StoredBytes(options_.root);
  return *total_bytes_;
}

struct LogStore::StoredAttempt {
  LogKey key;  // of its rank 0
  std::string folder;
  std::filesystem::file_time_type written;  // the newest of its files
};

// Of one job, in no order.
std::vector<LogStore::StoredAttempt> LogStore::Attempts(const std::string& job) const {
  std::vector<StoredAttempt> attempts;
  std::error_code error;
  for (const auto& stage : std::filesystem::directory_iterator(absl::StrCat(options_.root, "/", job), error)) {
    for (const auto& folder : std::filesystem::directory_iterator(stage.path(), error)) {
      StoredAttempt attempt{{job, stage.path().filename().string(), 0, 0}, folder.path().string(), {}};
      if (!absl::SimpleAtoi(folder.path().filename().string(), &attempt.key.fence)) continue;
      for (const auto& file : std::filesystem::directory_iterator(folder.path(), error)) {
        attempt.written = std::max(attempt.written, file.last_write_time(error));
      }
      attempts.push_back(std::move(attempt));
    }
  }
  return attempts;
}

void LogStore::Remove(const StoredAttempt& attempt) {
  const uint64_t bytes = StoredBytes(attempt.folder);
  TotalBytes() -= std::min(TotalBytes(), bytes);
  JobBytes(attempt.key.job) -= std::min(JobBytes(attempt.key.job), bytes);
  std::error_code error;
  std::filesystem::remove_all(attempt.folder, error);
  attempt_bytes_.erase(attempt.key);
  std::erase_if(files_, [&](const auto& file) {
    return file.first.job == attempt.key.job && file.first.stage == attempt.key.stage &&
           file.first.fence == attempt.key.fence;
  });
}

// False when `bytes` more do not fit, whatever is removed.
bool LogStore::MakeRoom(const LogKey& key, uint64_t bytes) {
  if (AttemptBytes(key) + bytes > options_.attempt_bytes_max) return false;
  if (JobBytes(key.job) + bytes > options_.job_bytes_max && !MakeRoomInJob(key, bytes)) return false;
  return TotalBytes() + bytes <= options_.total_bytes_max || MakeRoomInAll(key, bytes);
}

// The job's attempts before this one, oldest first: a fence is of one stage of the job.
bool LogStore::MakeRoomInJob(const LogKey& key, uint64_t bytes) {
  std::vector<StoredAttempt> attempts = Attempts(key.job);
  std::erase_if(attempts, [&](const StoredAttempt& attempt) { return attempt.key.fence >= key.fence; });
  std::sort(attempts.begin(), attempts.end(),
            [](const StoredAttempt& a, const StoredAttempt& b) { return a.key.fence < b.key.fence; });
  for (const StoredAttempt& attempt : attempts) {
    Remove(attempt);
    if (JobBytes(key.job) + bytes <= options_.job_bytes_max) return true;
  }
  return false;
}

// Removes a little more than `bytes`, since a look at every folder is not for every chunk.
bool LogStore::MakeRoomInAll(const LogKey& key, uint64_t bytes) {
  if (looks_skipped_ > 0) {
    --looks_skipped_;
    return false;
  }
  std::vector<StoredAttempt> ended;
  std::error_code error;
  for (const auto& job : std::filesystem::directory_iterator(options_.root, error)) {
    const std::string name = job.path().filename().string();
    const bool over = options_.job_ended != nullptr && options_.job_ended(name);
    std::map<std::string, uint64_t> newest;  // by stage
    std::vector<StoredAttempt> attempts = Attempts(name);
    for (const StoredAttempt& attempt : attempts) {
      newest[attempt.key.stage] = std::max(newest[attempt.key.stage], attempt.key.fence);
    }
    for (StoredAttempt& attempt : attempts) {
      const bool own = attempt.key == LogKey{key.job, key.stage, key.fence, 0};
      if (!own && (over || attempt.key.fence < newest[attempt.key.stage])) ended.push_back(std::move(attempt));
    }
  }
  std::sort(ended.begin(), ended.end(), [](const StoredAttempt& a, const StoredAttempt& b) {
    return std::tie(a.written, a.key) < std::tie(b.written, b.key);
  });
  const uint64_t wanted = options_.total_bytes_max - options_.total_bytes_max / kSlackOfTotal;
  for (const StoredAttempt& attempt : ended) {
    if (TotalBytes() + bytes <= wanted) break;
    Remove(attempt);
  }
  const bool fits = TotalBytes() + bytes <= options_.total_bytes_max;
  if (!fits) looks_skipped_ = kLooksSkipped;
  return fits;
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
    AttemptBytes(key) += data.size();
    TotalBytes() += data.size();
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
