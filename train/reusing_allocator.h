// CPU memory of tensors that is kept when it is freed and given out again.
//
// A training step allocates and frees the same sizes over and over. The C library gives large blocks back to the system
// at once, so each step pays for fresh, zeroed pages; here they stay, in regions that ask for huge pages.
#ifndef VLM_TRAIN_REUSING_ALLOCATOR_H_
#define VLM_TRAIN_REUSING_ALLOCATOR_H_

#include <c10/core/Allocator.h>

#include <cstddef>
#include <cstdint>
#include <set>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace vlm::train {

struct ReusingAllocatorOptions {
  size_t region_bytes = size_t{32} << 20;  // taken from the system at a time, or what one block needs
  // Free bytes kept. A region that is free as a whole goes back to the system when more are free.
  size_t retained_bytes_max = size_t{2} << 30;
};

// Best fit over regions, neighbours joined when freed; blocks below kSmallBytes are the C library's. A block that fits
// nowhere gets a new region, for which regions that are free as a whole are given back first: sizes that change from
// step to step do not add up, and memory grows with what is in use, not with what was once free. When the system
// refuses a region, all free ones go back before it is asked again. Pointers are aligned as LibTorch's own. Reports to
// LibTorch's memory profiler as its own allocator does. Thread-safe. Throws what LibTorch's own allocator throws when
// memory runs out. Outlives its blocks.
class ReusingAllocator final : public c10::Allocator {
 public:
  static constexpr size_t kSmallBytes = size_t{16} << 10;

  explicit ReusingAllocator(const ReusingAllocatorOptions& options = {});
  ~ReusingAllocator() override;  // every block has been freed

  c10::DataPtr allocate(size_t bytes) override;
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* dest, const void* src, size_t count) const override { default_copy_data(dest, src, count); }

  struct Usage {
    size_t mapped_bytes = 0;                            // regions, in use or free
    size_t free_bytes = 0;                              // of them
    size_t used_bytes_peak = 0, mapped_bytes_peak = 0;  // so far; used: handed out, headers included
    uint64_t mappings = 0;                              // regions taken from the system so far
  };
  Usage usage() const;

 private:
  struct Block;
  struct Smaller {
    using is_transparent = void;
    bool operator()(const Block* a, const Block* b) const;
    bool operator()(const Block* a, size_t bytes) const;
  };
  static void Delete(void* data);
  Block* Take(size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Block* MapRegion(size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveBack(size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Split(Block* block, size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Free(Block* block);
  void Unmap(Block* region) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ReusingAllocatorOptions options_;
  mutable Mutex mutex_;
  std::set<Block*, Smaller> free_ ABSL_GUARDED_BY(mutex_);  // by size, then address
  Usage usage_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_REUSING_ALLOCATOR_H_
