#include "checkpoint/format/parallel_read.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/at_once.h"
#include "base/direct_io.h"

namespace vlm::checkpoint {
namespace {

struct Copy {
  uint64_t inside = 0;  // the chunk
  std::span<std::byte> out;
};

struct ChunkRead {
  const SafetensorsReader* file = nullptr;
  uint64_t chunk = 0;
  std::vector<Copy> copies;
};

// In the order in which they lie on the disk, file by file.
absl::StatusOr<std::vector<ChunkRead>> PlanChunks(const std::vector<TensorRead>& reads) {
  std::map<std::pair<std::string_view, uint64_t>, ChunkRead> chunks;
  for (const TensorRead& read : reads) {
    if (read.offset > read.tensor->bytes() || read.out.size() > read.tensor->bytes() - read.offset) {
      return absl::OutOfRangeError(absl::StrCat("read past the end of tensor \"", read.tensor->name,
                                                "\": ", read.out.size(), " bytes at ", read.offset, " of ",
                                                read.tensor->bytes()));
    }
    uint64_t at = read.file->header().data_begin + read.tensor->begin + read.offset;
    for (std::span<std::byte> out = read.out; !out.empty();) {
      const uint64_t chunk = at / kChunkBytes, inside = at % kChunkBytes;
      const size_t taken = std::min<uint64_t>(out.size(), kChunkBytes - inside);
      ChunkRead& planned = chunks[{read.file->path(), chunk}];
      planned.file = read.file;
      planned.chunk = chunk;
      planned.copies.push_back({inside, out.first(taken)});
      at += taken;
      out = out.subspan(taken);
    }
  }
  std::vector<ChunkRead> planned;
  for (auto& [place, chunk] : chunks) planned.push_back(std::move(chunk));
  return planned;
}

absl::Status ReadChunk(const ChunkRead& chunk, std::span<std::byte> memory) {
  const uint64_t begin = chunk.chunk * kChunkBytes;
  const std::span<std::byte> bytes = memory.first(std::min(kChunkBytes, chunk.file->file_bytes() - begin));
  VLM_RETURN_IF_ERROR(chunk.file->ReadChunk(chunk.chunk, bytes));
  for (const Copy& copy : chunk.copies) {
    std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(copy.inside), copy.out.size(), copy.out.begin());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadTensors(const std::vector<TensorRead>& reads, const ParallelReadOptions& options) {
  VLM_ASSIGN_OR_RETURN(const std::vector<ChunkRead> chunks, PlanChunks(reads));
  std::vector<std::optional<AlignedBuffer>> buffers(static_cast<size_t>(std::max(options.threads, 1)));
  // Not aligned for a direct transfer: through the cache.
  const size_t skipped = options.past_page_cache ? 0 : kDirectAlignment / 2;
  return ForEachAtOnce(chunks.size(), options.threads, [&](size_t i, int thread) {
    std::optional<AlignedBuffer>& buffer = buffers[static_cast<size_t>(thread)];
    if (!buffer) buffer.emplace(kChunkBytes + kDirectAlignment);
    return ReadChunk(chunks[i], buffer->span().subspan(skipped));
  });
}

}  // namespace vlm::checkpoint
