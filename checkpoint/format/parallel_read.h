// Reads many tensors at once: each chunk one time, on several threads.
#ifndef VLM_CHECKPOINT_FORMAT_PARALLEL_READ_H_
#define VLM_CHECKPOINT_FORMAT_PARALLEL_READ_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "checkpoint/format/safetensors_reader.h"

namespace vlm::checkpoint {

// Bytes of a tensor from `offset` on into `out`. `tensor` is one of the file's.
struct TensorRead {
  const SafetensorsReader* file = nullptr;
  const TensorEntry* tensor = nullptr;
  uint64_t offset = 0;
  std::span<std::byte> out;
};

struct ParallelReadOptions {
  // Some wait for the disk while others hash. Each holds a buffer of kChunkBytes.
  int threads = 4;
  // For what only this process reads: spares the copy, and leaves others' pages in the cache (base/direct_io.h).
  bool past_page_cache = false;
};

// Chunks that several reads share are read, and verified, once. Blocks until all is read; its threads end with it.
// OUT_OF_RANGE past a tensor's end, before anything is read; DATA_LOSS names file and chunk; of several errors the one
// nearest the front of the first file. After an error `out` holds anything.
absl::Status ReadTensors(const std::vector<TensorRead>& reads, const ParallelReadOptions& options);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_FORMAT_PARALLEL_READ_H_
