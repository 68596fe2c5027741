#include "train/gather_buffers.h"

#include <ATen/ops/empty.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <utility>

#include "base/check.h"

namespace vlm::train {

at::Tensor GatherBuffers::Take(int64_t numel) {
  size_t best = free_.size();
  for (size_t i = 0; i < free_.size(); ++i) {
    if (free_[i].numel() < numel || free_[i].numel() > 2 * numel) continue;
    if (best == free_.size() || free_[i].numel() < free_[best].numel()) best = i;
  }
  if (best < free_.size()) {
    at::Tensor buffer = std::move(free_[best]);
    free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(best));
    return buffer;
  }
  // Parameters, not activations: a measurement of the latter (train/run.cc) must not see them.
  const c10::DebugInfoGuard unmeasured(c10::DebugInfoKind::PROFILER_STATE, nullptr);
  at::Tensor buffer = at::empty({numel}, at::TensorOptions().dtype(type_).device(device_));
  bytes_ += static_cast<int64_t>(buffer.nbytes());
  return buffer;
}

void GatherBuffers::Return(at::Tensor buffer) { free_.push_back(std::move(buffer)); }

at::Tensor EmptyHandle(int64_t numel, at::ScalarType type, at::Device device) {
  const at::TensorOptions options = at::TensorOptions().dtype(type).device(device);
  const at::Storage storage(at::Storage::use_byte_size_t(), static_cast<size_t>(numel) * c10::elementSize(type),
                            at::DataPtr(nullptr, device), /*allocator=*/nullptr, /*resizable=*/false);
  at::Tensor handle = at::empty({0}, options);
  handle.unsafeGetTensorImpl()->set_storage_and_dtype(storage, options.dtype());
  handle.unsafeGetTensorImpl()->set_sizes_contiguous({numel});
  return handle;
}

void LendMemory(const at::Tensor& memory, const at::Tensor& handle) {
  VLM_CHECK(memory.nbytes() >= handle.storage().nbytes(), "lent memory is too small");
  handle.storage().set_data_ptr_noswap(at::DataPtr(memory.mutable_data_ptr(), handle.device()));
}

void TakeMemoryBack(const at::Tensor& handle) {
  handle.storage().set_data_ptr_noswap(at::DataPtr(nullptr, handle.device()));
}

}  // namespace vlm::train
