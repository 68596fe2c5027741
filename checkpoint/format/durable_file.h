// Files that exist whole, hashed and on disk, or not at all; and their verification.
#ifndef VLM_CHECKPOINT_FORMAT_DURABLE_FILE_H_
#define VLM_CHECKPOINT_FORMAT_DURABLE_FILE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "checkpoint/format/chunk_sums.h"

namespace vlm::checkpoint {

struct WrittenFile {
  uint64_t bytes = 0;
  std::string digest;  // hex, ChunkSums::FileDigest
};

constexpr std::string_view kTemporarySuffix = ".tmp";

// Where the sums of a file stand: beside it.
std::string SumPath(const std::string& path);

// Writes `<path>.tmp` front to back while hashing; Finish makes `<path>` and `<path>.sum` durable, in this order:
// sync both temporaries, rename the sums, rename the file, sync the folder. Destroying an unfinished writer
// removes its temporaries. Not thread-safe. A path has one writer: `path` must not exist.
class DurableFileWriter {
 public:
  // `bytes_expected` is reserved on the disk first. ALREADY_EXISTS when `path` or a temporary of it exists;
  // RESOURCE_EXHAUSTED when the disk has no room; NOT_FOUND when the folder does not exist.
  static absl::StatusOr<std::unique_ptr<DurableFileWriter>> Create(FileSystem* files, std::string path,
                                                                   uint64_t bytes_expected);
  ~DurableFileWriter();

  absl::Status Append(std::span<const std::byte> bytes);
  absl::Status Append(std::string_view text) { return Append(std::as_bytes(std::span(text.data(), text.size()))); }
  // Once. After any error the file is lost: write it anew under another path.
  absl::StatusOr<WrittenFile> Finish();

 private:
  DurableFileWriter(FileSystem* files, std::string path) : files_(files), path_(std::move(path)) {}
  absl::Status Publish(const ChunkSums& sums);

  FileSystem* const files_;
  const std::string path_;
  std::unique_ptr<WritableFile> file_;
  ChunkHasher hasher_;
  bool finished_ = false;
};

// The plain variant in one call: JSON, tokenizer files, small tables.
absl::StatusOr<WrittenFile> WriteDurableFile(FileSystem* files, const std::string& path, std::string_view contents);

// Hashes a file made by another writer (a tar library, say) and writes its `.sum` durably beside it. The file
// itself is not synced: its writer must have done so.
absl::StatusOr<WrittenFile> AddSums(FileSystem* files, const std::string& path);

// `<path>.sum`, parsed. NOT_FOUND when it does not exist, DATA_LOSS when it does not parse.
absl::StatusOr<ChunkSums> ReadChunkSums(FileSystem* files, const std::string& path);

// A whole file of at most `bytes_max`, compared with its sums. DATA_LOSS naming the file, and the chunk where there is
// one, when it is missing, of another size or not as it was committed; errors of reading else.
absl::StatusOr<std::string> ReadCommittedFile(FileSystem* files, const std::string& path, uint64_t bytes_max);

struct FileClaim {
  std::string name;  // relative to its folder
  uint64_t bytes = 0;
  std::string digest;  // hex
  friend bool operator==(const FileClaim&, const FileClaim&) = default;
};

struct FileDamage {
  std::string file;
  int64_t chunk = -1;  // -1: the whole file
  std::string detail;
};

// Without reading contents: each file exists with its size, its `.sum` exists and belongs to the claimed digest.
// An error is one of looking (permissions, too many open files), not of the files.
absl::StatusOr<std::vector<FileDamage>> CheckFiles(FileSystem* files, const std::string& folder,
                                                   std::span<const FileClaim> claims);

// Reads everything again, past the page cache, and names each damaged chunk.
absl::StatusOr<std::vector<FileDamage>> VerifyFiles(FileSystem* files, const std::string& folder,
                                                    std::span<const FileClaim> claims);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_FORMAT_DURABLE_FILE_H_
