// Transfers between memory and disk past the page cache, by the machine's files (PosixFileSystem).
//
// A large file that is written once, or read once, gains nothing from the cache: its pages cost a copy and push out
// others. So without being asked by name
// - a file for which at least kDirectBytesMin are reserved (WritableFile::Reserve) is written in pieces by a thread of
//   its own while the caller makes the next piece: an error may show in a later call, at the latest in Sync or Close,
//   and readers see the bytes after one of these;
// - a read (ReadableFile::ReadAt) of at least kDirectReadBytesMin whose offset and memory are multiples of
//   kDirectAlignment comes from the disk: take the memory from AlignedBuffer. Other reads use the cache.
// File systems that do not offer it are read and written through the cache.
#ifndef VLM_BASE_DIRECT_IO_H_
#define VLM_BASE_DIRECT_IO_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace vlm {

inline constexpr size_t kDirectAlignment = 4096;
inline constexpr uint64_t kDirectBytesMin = 8 << 20;
inline constexpr size_t kDirectReadBytesMin = 1 << 20;

// Memory that a disk can transfer from and to, not initialised.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t bytes);  // a multiple of kDirectAlignment
  std::span<std::byte> span() const { return {data_.get(), bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  size_t bytes_;
  std::unique_ptr<std::byte[], Free> data_;
};

// Writes one file behind its caller. One thread calls.
class DirectWriter {
 public:
  // Nothing when the file system of `fd` does not offer it. `fd` stays the caller's, is written from where it stands
  // and outlives the writer; `path` is for messages.
  static std::unique_ptr<DirectWriter> Create(int fd, std::string path);
  ~DirectWriter();  // after Finish; without it, what was not yet written is lost

  // Blocks while kPieces pieces wait to be written. The first error of any write so far.
  absl::Status Append(std::span<const std::byte> bytes);
  // Waits for all writes, writes the rest through the cache and leaves `fd` without O_DIRECT. Once.
  absl::Status Finish();

 private:
  class Pieces;
  DirectWriter(int fd, std::string path);
  const std::unique_ptr<Pieces> pieces_;
};

// Writes all of `bytes` at the file's position.
absl::Status WriteFully(int fd, const std::string& path, std::span<const std::byte> bytes);

// Fills the front of `out` from `offset` through a descriptor opened with O_DIRECT, as far as whole blocks go; the
// number of bytes filled, 0 when it cannot be done so. Offset and memory are multiples of kDirectAlignment.
size_t ReadDirect(int direct_fd, uint64_t offset, std::span<std::byte> out);

}  // namespace vlm

#endif  // VLM_BASE_DIRECT_IO_H_
