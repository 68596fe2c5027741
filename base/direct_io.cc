#include "base/direct_io.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bounded_queue.h"
#include "base/check.h"
#include "base/mutex.h"

namespace vlm {
namespace {

// Large enough for a disk's full rate, small enough to stay in a processor's cache between copy and write.
constexpr size_t kPieceBytes = 2 << 20;
constexpr size_t kPieces = 3;  // one is filled, one waits, one is written

absl::Status WriteError(int error_number, const std::string& path) {
  return ErrnoStatus(error_number, absl::StrCat("write ", path));
}

// write(2) once more when a signal came first; -1 with errno.
ssize_t WriteOnce(int fd, std::span<const std::byte> bytes) {
  ssize_t written = 0;
  do {
    written = write(fd, bytes.data(), bytes.size());
  } while (written < 0 && errno == EINTR);
  return written;
}

bool SetDirect(int fd, bool direct) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t bytes)
    : bytes_(bytes), data_(static_cast<std::byte*>(std::aligned_alloc(kDirectAlignment, bytes))) {
  VLM_CHECK(data_ != nullptr, "no memory for a buffer of direct transfers");
}

absl::Status WriteFully(int fd, const std::string& path, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = WriteOnce(fd, bytes);
    if (written < 0) return WriteError(errno, path);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

size_t ReadDirect(int direct_fd, uint64_t offset, std::span<std::byte> out) {
  size_t filled = 0, wanted = out.size() / kDirectAlignment * kDirectAlignment;
  while (filled < wanted) {
    const ssize_t count = pread(direct_fd, out.data() + filled, wanted - filled, static_cast<off_t>(offset + filled));
    if (count < 0 && errno == EINTR) continue;
    // At the file's end, or where the disk wants other borders: the rest goes through the cache, which names errors.
    if (count <= 0) break;
    filled += static_cast<size_t>(count) / kDirectAlignment * kDirectAlignment;
    if (static_cast<size_t>(count) % kDirectAlignment != 0) break;
  }
  return filled;
}

// Buffers go round: the caller fills one, the thread writes it and gives it back.
class DirectWriter::Pieces {
 public:
  Pieces(int fd, std::string path)
      : fd_(fd), path_(std::move(path)), empty_(kPieces), full_(kPieces), thread_([this] { Run(); }) {
    for (size_t i = 0; i < kPieces; ++i) empty_.Push(i);
  }

  ~Pieces() { Stop(); }

  absl::Status Append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      if (!filling_.has_value()) filling_ = empty_.Pop();
      const std::span<std::byte> piece = buffers_[*filling_].span();
      const size_t taken = std::min(bytes.size(), piece.size() - filled_);
      std::memcpy(piece.data() + filled_, bytes.data(), taken);
      filled_ += taken;
      bytes = bytes.subspan(taken);
      if (filled_ < piece.size()) continue;
      full_.Push(*std::exchange(filling_, std::nullopt));
      filled_ = 0;
    }
    return status();
  }

  absl::Status Finish() {
    Stop();
    VLM_RETURN_IF_ERROR(status());
    if (!SetDirect(fd_, false)) return WriteError(errno, path_);
    if (filled_ == 0) return absl::OkStatus();
    return WriteFully(fd_, path_, buffers_[*filling_].span().first(filled_));
  }

 private:
  void Stop() {
    full_.Close();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status status() const {
    MutexLock lock(&mutex_);
    return status_;
  }

  void Run() {
    while (const std::optional<size_t> piece = full_.Pop()) {
      const absl::Status written = status().ok() ? WritePiece(buffers_[*piece].span()) : absl::OkStatus();
      if (!written.ok()) {
        MutexLock lock(&mutex_);
        status_ = written;
      }
      empty_.Push(*piece);
    }
  }

  absl::Status WritePiece(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = WriteOnce(fd_, bytes);
      if (written < 0) {
        // The flag was taken, but the disk wants other borders, or a short write has left such: through the cache.
        if (errno != EINVAL || !SetDirect(fd_, false)) return WriteError(errno, path_);
        return WriteFully(fd_, path_, bytes);
      }
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
    return absl::OkStatus();
  }

  const int fd_;
  const std::string path_;
  std::array<AlignedBuffer, kPieces> buffers_{AlignedBuffer(kPieceBytes), AlignedBuffer(kPieceBytes),
                                              AlignedBuffer(kPieceBytes)};
  std::optional<size_t> filling_;
  size_t filled_ = 0;
  BoundedQueue<size_t> empty_, full_;
  mutable Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // last: starts when everything above exists
};

DirectWriter::DirectWriter(int fd, std::string path) : pieces_(std::make_unique<Pieces>(fd, std::move(path))) {}
DirectWriter::~DirectWriter() = default;

std::unique_ptr<DirectWriter> DirectWriter::Create(int fd, std::string path) {
  if (!SetDirect(fd, true)) return nullptr;
  return std::unique_ptr<DirectWriter>(new DirectWriter(fd, std::move(path)));
}

absl::Status DirectWriter::Append(std::span<const std::byte> bytes) { return pieces_->Append(bytes); }
absl::Status DirectWriter::Finish() { return pieces_->Finish(); }

}  // namespace vlm
