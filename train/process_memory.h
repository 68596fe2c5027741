// The memory of tensors, decided once for a whole process.
#ifndef VLM_TRAIN_PROCESS_MEMORY_H_
#define VLM_TRAIN_PROCESS_MEMORY_H_

namespace vlm::train {

// Makes one ReusingAllocator (train/reusing_allocator.h) LibTorch's CPU allocator for the rest of the process. Called
// once, by a program's main, before the first tensor.
void ReuseTensorMemory();

}  // namespace vlm::train

#endif  // VLM_TRAIN_PROCESS_MEMORY_H_
