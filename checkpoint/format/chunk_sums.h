// Chunk hashes of one file and their sidecar `<file>.sum` (FORMAT.md).
//
// A file's identity is SHA-256 over the SHA-256 of each 4 MiB chunk, so it can be computed while writing and one
// chunk can be verified without reading the rest.
#ifndef VLM_CHECKPOINT_FORMAT_CHUNK_SUMS_H_
#define VLM_CHECKPOINT_FORMAT_CHUNK_SUMS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"
#include "base/status.h"

namespace vlm::checkpoint {

constexpr uint64_t kChunkBytes = 4 << 20;
constexpr std::string_view kSumSuffix = ".sum";
constexpr uint64_t kSumFileBytesMax = 256 << 20;  // the sums of a file of 16 TiB

struct ChunkSums {
  uint64_t bytes = 0;          // of the file
  std::vector<Digest> chunks;  // ceil(bytes / kChunkBytes)
  Digest FileDigest() const;
  friend bool operator==(const ChunkSums&, const ChunkSums&) = default;
};

std::string SerializeChunkSums(const ChunkSums& sums);
// INVALID_ARGUMENT for another magic, another chunk size, a count that does not follow from the size, a digest
// that does not match the chunks, or trailing bytes.
absl::StatusOr<ChunkSums> ParseChunkSums(std::string_view contents);

// "chunk 1 (bytes 4194304 to 6291455)", of a file of `file_bytes`.
std::string ChunkName(uint64_t chunk, uint64_t file_bytes);

// Hashes a file as it is written. Not thread-safe.
class ChunkHasher {
 public:
  void Update(std::span<const std::byte> bytes);
  ChunkSums Finish();  // once

 private:
  void EndChunk();

  std::unique_ptr<Sha256> chunk_ = std::make_unique<Sha256>();
  uint64_t chunk_bytes_ = 0;
  ChunkSums sums_;
};

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_FORMAT_CHUNK_SUMS_H_
