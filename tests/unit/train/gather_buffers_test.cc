#include "train/gather_buffers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace vlm::train {
namespace {

TEST(GatherBuffersTest, MemoryGoesFromOneBucketToTheNextOfItsSize) {
  GatherBuffers buffers(at::kFloat, at::kCPU);
  at::Tensor large = buffers.Take(1000), small = buffers.Take(100);
  EXPECT_EQ(buffers.bytes(), 4400);
  const void* const large_memory = large.const_data_ptr();
  const void* const small_memory = small.const_data_ptr();
  buffers.Return(large);
  buffers.Return(small);
  EXPECT_EQ(buffers.Take(90).const_data_ptr(), small_memory);
  EXPECT_EQ(buffers.Take(600).const_data_ptr(), large_memory);
  EXPECT_EQ(buffers.bytes(), 4400);
}

TEST(GatherBuffersTest, ASmallBucketNeverHoldsTheMemoryOfALargeOne) {
  GatherBuffers buffers(at::kBFloat16, at::kCPU);
  buffers.Return(buffers.Take(1000));
  EXPECT_EQ(buffers.Take(499).numel(), 499);
  EXPECT_EQ(buffers.bytes(), 2 * 1499);
  EXPECT_EQ(buffers.Take(1000).numel(), 1000);
  EXPECT_EQ(buffers.bytes(), 2 * 1499);
}

TEST(GatherBuffersTest, ViewsSeeTheMemoryThatIsLent) {
  const at::Tensor handle = EmptyHandle(6, at::kFloat, at::kCPU);
  const at::Tensor view = handle.narrow(0, 2, 4).view({2, 2}).detach();
  const at::Tensor memory = at::arange(8, at::kFloat), other = at::arange(8, at::kFloat) + 10;
  LendMemory(memory, handle);
  EXPECT_EQ(view[1][0].item<float>(), 4);
  TakeMemoryBack(handle);
  EXPECT_EQ(handle.storage().data(), nullptr);
  LendMemory(other, handle);
  EXPECT_EQ(view[1][0].item<float>(), 14);
  TakeMemoryBack(handle);
}

}  // namespace
}  // namespace vlm::train
