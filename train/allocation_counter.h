// Bytes that one thread allocates for tensors, as LibTorch reports them.
#ifndef VLM_TRAIN_ALLOCATION_COUNTER_H_
#define VLM_TRAIN_ALLOCATION_COUNTER_H_

#include <c10/core/Allocator.h>

#include <algorithm>
#include <cstdint>

namespace vlm::train {

// Counts while it is the thread's profiler state (c10::DebugInfoGuard with PROFILER_STATE). One thread.
class AllocationCounter final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    live_ += bytes;
    peak_ = std::max(peak_, live_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  int64_t live_ = 0, peak_ = 0;
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_ALLOCATION_COUNTER_H_
