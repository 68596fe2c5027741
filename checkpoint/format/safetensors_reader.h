// Reads ranges of tensors from one safetensors file, verifying the chunks they touch.
#ifndef VLM_CHECKPOINT_FORMAT_SAFETENSORS_READER_H_
#define VLM_CHECKPOINT_FORMAT_SAFETENSORS_READER_H_

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/mutex.h"
#include "checkpoint/format/chunk_sums.h"
#include "checkpoint/format/safetensors.h"

namespace vlm::checkpoint {

struct ReadOptions {
  // With sums each chunk is verified the first time it is touched, and not again: a chunk that is written over before
  // is DATA_LOSS, one that is written over after is noticed by the next reader only. Without (a folder made by others),
  // only the header's rules are checked.
  bool require_sums = true;
  std::string digest = {};  // hex, from the catalog: the sums must belong to it; empty: not checked
};

// Thread-safe. The file is read with pread, never mapped: a file cut short underneath is an error, not a signal.
class SafetensorsReader {
 public:
  // NOT_FOUND when the file (or, when required, its `.sum`) does not exist; INVALID_ARGUMENT for a file that
  // breaks the format; DATA_LOSS when sums, digest or chunks do not match.
  static absl::StatusOr<std::unique_ptr<SafetensorsReader>> Open(FileSystem* files, const std::string& path,
                                                                 const ReadOptions& options = {});

  const SafetensorsHeader& header() const { return header_; }
  const std::string& path() const { return path_; }
  const TensorEntry* Find(std::string_view name) const;  // null when absent

  // Fills `out` from byte `offset` of the tensor. OUT_OF_RANGE past its end; DATA_LOSS names file and chunk.
  absl::Status Read(const TensorEntry& tensor, uint64_t offset, std::span<std::byte> out) const;

  uint64_t file_bytes() const { return file_->size(); }
  // Fills `buffer` with a chunk of the file, as long as the chunk is; verified as by Read.
  absl::Status ReadChunk(uint64_t chunk, std::span<std::byte> buffer) const;

 private:
  SafetensorsReader() = default;
  absl::Status ReadVerified(uint64_t offset, std::span<std::byte> out) const;
  bool IsVerified(uint64_t chunk) const;

  std::string path_;
  std::unique_ptr<ReadableFile> file_;
  std::optional<ChunkSums> sums_;
  SafetensorsHeader header_;
  std::map<std::string, size_t, std::less<>> index_;  // name -> place in header_.tensors
  mutable Mutex mutex_;
  mutable std::vector<bool> verified_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_FORMAT_SAFETENSORS_READER_H_
