// The memory of tensors, decided once for a whole process.
#ifndef VLM_TRAIN_PROCESS_MEMORY_H_
#define VLM_TRAIN_PROCESS_MEMORY_H_

#include <cstdint>

namespace vlm::train {

// Makes one ReusingAllocator (train/reusing_allocator.h) LibTorch's CPU allocator for the rest of the process. Called
// once, by a program's main, before the first tensor.
void ReuseTensorMemory();

// The most bytes that this allocator has handed out at one time so far, its headers included and blocks below
// ReusingAllocator::kSmallBytes not; 0 where ReuseTensorMemory was not called. Thread-safe.
uint64_t TensorBytesPeak();

}  // namespace vlm::train

#endif  // VLM_TRAIN_PROCESS_MEMORY_H_
