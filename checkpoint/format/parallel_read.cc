#include "checkpoint/format/parallel_read.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/direct_io.h"
#include "base/mutex.h"

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

// Workers take the next chunk until there is none, or one has failed.
class ChunkReaders {
 public:
  ChunkReaders(const std::vector<ChunkRead>& chunks, bool past_page_cache)
      : chunks_(chunks), past_page_cache_(past_page_cache) {}

  void Work() {
    // Not aligned for a direct transfer: through the cache.
    const AlignedBuffer buffer(kChunkBytes + kDirectAlignment);
    const std::span<std::byte> memory = buffer.span().subspan(past_page_cache_ ? 0 : kDirectAlignment / 2);
    for (size_t next = next_++; next < chunks_.size(); next = next_++) {
      const absl::Status read = Read(chunks_[next], memory);
      if (read.ok()) continue;
      next_ = chunks_.size();  // those taken before are nearer the front and still end
      MutexLock lock(&mutex_);
      if (next < failed_) {
        failed_ = next;
        error_ = read;
      }
    }
  }

  absl::Status error() const {
    MutexLock lock(&mutex_);
    return error_;
  }

 private:
  static absl::Status Read(const ChunkRead& chunk, std::span<std::byte> memory) {
    const uint64_t begin = chunk.chunk * kChunkBytes;
    const std::span<std::byte> bytes = memory.first(std::min(kChunkBytes, chunk.file->file_bytes() - begin));
    VLM_RETURN_IF_ERROR(chunk.file->ReadChunk(chunk.chunk, bytes));
    for (const Copy& copy : chunk.copies) {
      std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(copy.inside), copy.out.size(), copy.out.begin());
    }
    return absl::OkStatus();
  }

  const std::vector<ChunkRead>& chunks_;
  const bool past_page_cache_;
  std::atomic<size_t> next_ = 0;
  mutable Mutex mutex_;
  size_t failed_ ABSL_GUARDED_BY(mutex_) = SIZE_MAX;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status ReadTensors(const std::vector<TensorRead>& reads, const ParallelReadOptions& options) {
  VLM_ASSIGN_OR_RETURN(const std::vector<ChunkRead> chunks, PlanChunks(reads));
  ChunkReaders readers(chunks, options.past_page_cache);
  std::vector<std::thread> others;
  for (int i = 1; i < options.threads && static_cast<size_t>(i) < chunks.size(); ++i) {
    others.emplace_back([&readers] { readers.Work(); });
  }
  readers.Work();
  for (std::thread& other : others) other.join();
  return readers.error();
}

}  // namespace vlm::checkpoint
