#include "train/reusing_allocator.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <c10/core/impl/alloc_cpu.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <new>

#include "base/check.h"
#include "train/process_memory.h"

namespace vlm::train {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;
// Sizes are multiples of it, so that tensors which differ by a few rows find each other's blocks.
constexpr size_t kGranularity = 1024;

std::atomic<ReusingAllocator*> process_allocator = nullptr;

size_t RoundUp(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Null when the system refuses. A huge page begins at a multiple of its size: one more is mapped, and what sticks out
// is given back.
void* MapAligned(size_t size) {
  void* const mapped = mmap(nullptr, size + kHugePageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  std::byte* const begin = static_cast<std::byte*>(mapped);
  std::byte* const aligned =
      begin + (RoundUp(reinterpret_cast<uintptr_t>(begin), kHugePageBytes) - reinterpret_cast<uintptr_t>(begin));
  if (aligned > begin) munmap(begin, aligned - begin);
  if (aligned < begin + kHugePageBytes) munmap(aligned + size, begin + kHugePageBytes - aligned);
  madvise(aligned, size, MADV_HUGEPAGE);  // a wish: kernels without huge pages refuse it
  return aligned;
}

}  // namespace

// Lies before the bytes that it describes, and takes as many as one alignment.
struct alignas(c10::gAlignment) ReusingAllocator::Block {
  ReusingAllocator* owner = nullptr;  // null: the C library's
  size_t bytes = 0;                   // with this header
  Block* previous = nullptr;          // in the region; null: the first
  bool last = true;                   // in the region
  bool free = false;

  void* data() { return this + 1; }
  static Block* Of(void* data) { return static_cast<Block*>(data) - 1; }
  Block* next() { return last ? nullptr : reinterpret_cast<Block*>(reinterpret_cast<std::byte*>(this) + bytes); }
  bool whole_region() const { return previous == nullptr && last; }
};

bool ReusingAllocator::Smaller::operator()(const Block* a, const Block* b) const {
  return a->bytes != b->bytes ? a->bytes < b->bytes : std::less<>()(a, b);
}
bool ReusingAllocator::Smaller::operator()(const Block* a, size_t bytes) const { return a->bytes < bytes; }

ReusingAllocator::ReusingAllocator(const ReusingAllocatorOptions& options) : options_(options) {}

ReusingAllocator::~ReusingAllocator() {
  MutexLock lock(&mutex_);
  VLM_CHECK(usage_.free_bytes == usage_.mapped_bytes, "an allocator was destroyed before its blocks");
  while (!free_.empty()) {
    Block* const region = *free_.begin();
    free_.erase(free_.begin());
    Unmap(region);
  }
}

c10::DataPtr ReusingAllocator::allocate(size_t bytes) {
  if (bytes == 0) return {nullptr, nullptr, &Delete, at::kCPU};
  Block* block = nullptr;
  if (bytes < kSmallBytes) {
    block = new (c10::alloc_cpu(bytes + sizeof(Block))) Block;
  } else {
    MutexLock lock(&mutex_);
    block = Take(RoundUp(bytes + sizeof(Block), kGranularity));
  }
  if (block == nullptr) block = new (c10::alloc_cpu(bytes + sizeof(Block))) Block;  // throws, with LibTorch's words
  c10::profiledCPUMemoryReporter().New(block->data(), bytes);
  return {block->data(), block->data(), &Delete, at::kCPU};
}

c10::DeleterFnPtr ReusingAllocator::raw_deleter() const { return &Delete; }

ReusingAllocator::Usage ReusingAllocator::usage() const {
  MutexLock lock(&mutex_);
  return usage_;
}

void ReusingAllocator::Delete(void* data) {
  if (data == nullptr) return;
  c10::profiledCPUMemoryReporter().Delete(data);
  Block* const block = Block::Of(data);
  if (block->owner != nullptr) {
    block->owner->Free(block);
  } else {
    c10::free_cpu(block);
  }
}

// Null when the system has no memory left.
ReusingAllocator::Block* ReusingAllocator::Take(size_t bytes) {
  const auto found = free_.lower_bound(bytes);
  Block* block = nullptr;
  if (found != free_.end()) {
    block = *found;
    free_.erase(found);
  } else {
    block = MapRegion(bytes);
    if (block == nullptr) return nullptr;
  }
  block->free = false;
  Split(block, bytes);
  usage_.free_bytes -= block->bytes;
  usage_.used_bytes_peak = std::max(usage_.used_bytes_peak, usage_.mapped_bytes - usage_.free_bytes);
  return block;
}

ReusingAllocator::Block* ReusingAllocator::MapRegion(size_t bytes) {
  const size_t size = RoundUp(std::max(bytes, options_.region_bytes), kHugePageBytes);
  GiveBack(size);
  void* aligned = MapAligned(size);
  if (aligned == nullptr) {
    GiveBack(usage_.mapped_bytes);
    aligned = MapAligned(size);
  }
  if (aligned == nullptr) return nullptr;
  Block* const block = new (aligned) Block;
  block->owner = this;
  block->bytes = size;
  usage_.mapped_bytes += size;
  usage_.mapped_bytes_peak = std::max(usage_.mapped_bytes_peak, usage_.mapped_bytes);
  usage_.free_bytes += size;
  ++usage_.mappings;
  return block;
}

// Regions that are free as a whole, the largest first, until they have had `bytes` or there are no more.
void ReusingAllocator::GiveBack(size_t bytes) {
  size_t given = 0;
  for (auto at = free_.end(); given < bytes && at != free_.begin();) {
    Block* const block = *--at;
    if (!block->whole_region()) continue;
    at = free_.erase(at);
    given += block->bytes;
    Unmap(block);
  }
}

// Frees what `block` has beyond `bytes`, when it is worth a block.
void ReusingAllocator::Split(Block* block, size_t bytes) {
  if (block->bytes - bytes < kSmallBytes) return;
  Block* const rest = new (reinterpret_cast<std::byte*>(block) + bytes) Block;
  rest->owner = this;
  rest->bytes = block->bytes - bytes;
  rest->previous = block;
  rest->last = block->last;
  rest->free = true;
  if (Block* const after = rest->next(); after != nullptr) after->previous = rest;
  block->bytes = bytes;
  block->last = false;
  free_.insert(rest);
}

void ReusingAllocator::Free(Block* block) {
  MutexLock lock(&mutex_);
  usage_.free_bytes += block->bytes;
  const auto join = [](Block* first, Block* second) {
    first->bytes += second->bytes;
    first->last = second->last;
    if (Block* const after = first->next(); after != nullptr) after->previous = first;
  };
  if (Block* const after = block->next(); after != nullptr && after->free) {
    free_.erase(after);
    join(block, after);
  }
  if (Block* const before = block->previous; before != nullptr && before->free) {
    free_.erase(before);
    join(before, block);
    block = before;
  }
  block->free = true;
  if (block->whole_region() && usage_.free_bytes > options_.retained_bytes_max) {
    Unmap(block);
  } else {
    free_.insert(block);
  }
}

void ReusingAllocator::Unmap(Block* region) {
  usage_.mapped_bytes -= region->bytes;
  usage_.free_bytes -= region->bytes;
  munmap(region, region->bytes);
}

void ReuseTensorMemory() {
  static ReusingAllocator* const allocator = new ReusingAllocator;  // tensors may live until the process ends
  process_allocator = allocator;
  c10::SetCPUAllocator(allocator, /*priority=*/1);
}

uint64_t TensorBytesPeak() {
  const ReusingAllocator* const allocator = process_allocator;
  return allocator == nullptr ? 0 : allocator->usage().used_bytes_peak;
}

}  // namespace vlm::train
