// Memory for whole buckets of sharded parameters (zero 3): lent while a bucket is in use, then given to the next.
#ifndef VLM_TRAIN_GATHER_BUFFERS_H_
#define VLM_TRAIN_GATHER_BUFFERS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace vlm::train {

// One thread. Memory is kept until *this ends, so a schedule that repeats itself allocates in its first round only.
class GatherBuffers {
 public:
  GatherBuffers(at::ScalarType type, at::Device device) : type_(type), device_(device) {}

  // A 1-d tensor of at least `numel` elements, contents undefined: the smallest free one of at most twice the size, so
  // that a small bucket does not hold the memory of a large one, else a new one.
  at::Tensor Take(int64_t numel);
  void Return(at::Tensor buffer);
  // Of everything allocated so far.
  int64_t bytes() const { return bytes_; }

 private:
  const at::ScalarType type_;
  const at::Device device_;
  std::vector<at::Tensor> free_;
  int64_t bytes_ = 0;
};

// A 1-d tensor of `numel` elements without memory. Its views stay valid handles over LendMemory and TakeMemoryBack;
// reading one without memory is a programmer's error.
at::Tensor EmptyHandle(int64_t numel, at::ScalarType type, at::Device device);
// `memory` is of the handle's type and device, at least as large, and outlives the loan.
void LendMemory(const at::Tensor& memory, const at::Tensor& handle);
void TakeMemoryBack(const at::Tensor& handle);

}  // namespace vlm::train

#endif  // VLM_TRAIN_GATHER_BUFFERS_H_
