// Writes tar archives (POSIX ustar) whose bytes depend only on the members' names and contents.
#ifndef VLM_DATA_TAR_TAR_WRITER_H_
#define VLM_DATA_TAR_TAR_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/file_system.h"
#include "base/status.h"

namespace vlm::data {

// Every header has mode 0644, owner and group 0 with empty names, and time 0. Names of up to 100 bytes, or
// up to 255 when they can be cut at a '/' into 155 + 100. Not thread-safe; `file` must outlive the writer.
class TarWriter {
 public:
  explicit TarWriter(WritableFile* file) : file_(file) {}
  TarWriter(const TarWriter&) = delete;
  TarWriter& operator=(const TarWriter&) = delete;

  // INVALID_ARGUMENT for a name that is empty, absolute, holds "." or ".." as a part or a control character,
  // or is too long for ustar, and for contents of 8 GiB or more; FAILED_PRECONDITION after Finish(). Errors
  // of the file are passed on; the archive is then unusable.
  absl::Status Append(std::string_view name, std::span<const std::byte> contents);
  absl::Status Append(std::string_view name, std::string_view contents) {
    return Append(name, std::as_bytes(std::span(contents.data(), contents.size())));
  }

  // Writes the end mark (two zero blocks). Does not sync or close the file. Once; FAILED_PRECONDITION again.
  absl::Status Finish();

  uint64_t bytes_written() const { return bytes_written_; }

 private:
  absl::Status Write(std::span<const std::byte> bytes);

  WritableFile* const file_;
  uint64_t bytes_written_ = 0;
  bool finished_ = false;
};

}  // namespace vlm::data

#endif  // VLM_DATA_TAR_TAR_WRITER_H_
