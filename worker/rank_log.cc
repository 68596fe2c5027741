#include "worker/rank_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include "base/file_system.h"

namespace vlm::worker {

RankLog::RankLog(std::string folder, uint64_t segment_bytes)
    : folder_(std::move(folder)), segment_bytes_(segment_bytes) {}

RankLog::~RankLog() {
  if (file_ >= 0) close(file_);
}

absl::StatusOr<std::unique_ptr<RankLog>> RankLog::Create(const std::string& folder, uint64_t segment_bytes) {
  VLM_RETURN_IF_ERROR(MakeDirectories(PosixFileSystem(), folder));
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> names, PosixFileSystem()->List(folder));
  std::unique_ptr<RankLog> log(new RankLog(folder, segment_bytes));
  uint64_t newest = 0;
  for (const std::string& name : names) {
    uint64_t segment = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), segment);
    if (error == std::errc() && end == name.data() + name.size()) newest = std::max(newest, segment);
  }
  VLM_RETURN_IF_ERROR(log->OpenSegment(newest));
  struct stat info{};
  if (fstat(log->file_, &info) != 0) return ErrnoStatus(errno, "look at the log in " + folder);
  log->size_ = newest * segment_bytes + static_cast<uint64_t>(info.st_size);
  return log;
}

std::string RankLog::PathOf(uint64_t segment) const { return folder_ + "/" + std::to_string(segment); }

absl::Status RankLog::OpenSegment(uint64_t segment) {
  const int file = open(PathOf(segment).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return ErrnoStatus(errno, "open log segment " + PathOf(segment));
  if (file_ >= 0) close(file_);
  file_ = file;
  open_segment_ = segment;
  if (segment > kNewestSegments) unlink(PathOf(segment - kNewestSegments).c_str());
  return absl::OkStatus();
}

absl::Status RankLog::Append(std::string_view bytes) {
  while (!bytes.empty()) {
    const uint64_t segment = size_ / segment_bytes_;
    if (segment != open_segment_) {
      if (absl::Status opened = OpenSegment(segment); !opened.ok()) {
        size_ += bytes.size();
        return opened;
      }
    }
    const uint64_t within = size_ % segment_bytes_;
    const size_t count = std::min<uint64_t>(bytes.size(), segment_bytes_ - within);
    const ssize_t written = pwrite(file_, bytes.data(), count, static_cast<off_t>(within));
    if (written < 0) {
      if (errno == EINTR) continue;
      const absl::Status status = ErrnoStatus(errno, "write log segment " + PathOf(segment));
      size_ += bytes.size();
      return status;
    }
    size_ += static_cast<uint64_t>(written);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::StatusOr<RankLog::Chunk> RankLog::Read(uint64_t offset, size_t bytes_max) const {
  Chunk chunk{.offset = offset, .data = {}, .dropped_bytes = 0};
  while (chunk.offset < size_) {
    const uint64_t segment = chunk.offset / segment_bytes_;
    const uint64_t segment_end = std::min((segment + 1) * segment_bytes_, size_);
    const int file = open(PathOf(segment).c_str(), O_RDONLY | O_CLOEXEC);
    ssize_t bytes = 0;
    if (file >= 0) {
      chunk.data.resize(std::min<uint64_t>(bytes_max, segment_end - chunk.offset));
      bytes = pread(file, chunk.data.data(), chunk.data.size(), static_cast<off_t>(chunk.offset % segment_bytes_));
      close(file);
      if (bytes < 0) return ErrnoStatus(errno, "read log segment " + PathOf(segment));
      chunk.data.resize(static_cast<size_t>(bytes));
      if (bytes > 0) return chunk;
    } else if (errno != ENOENT) {
      return ErrnoStatus(errno, "open log segment " + PathOf(segment));
    }
    chunk.dropped_bytes += segment_end - chunk.offset;  // the segment was removed, or its bytes never got there
    chunk.offset = segment_end;
  }
  return chunk;
}

}  // namespace vlm::worker
