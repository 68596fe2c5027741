#include "base/at_once.h"

#include <atomic>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace vlm {
namespace {

class Calls {
 public:
  Calls(size_t count, const std::function<absl::Status(size_t, int)>& work) : count_(count), work_(work) {}

  void Run(int thread) {
    for (size_t next = next_++; next < count_; next = next_++) {
      absl::Status status = work_(next, thread);
      if (status.ok()) continue;
      next_ = count_;  // those begun before it may still have an error with a smaller number
      MutexLock lock(&mutex_);
      if (next < failed_) {
        failed_ = next;
        error_ = std::move(status);
      }
    }
  }

  absl::Status error() const {
    MutexLock lock(&mutex_);
    return error_;
  }

 private:
  const size_t count_;
  const std::function<absl::Status(size_t, int)>& work_;
  std::atomic<size_t> next_ = 0;
  mutable Mutex mutex_;
  size_t failed_ ABSL_GUARDED_BY(mutex_) = SIZE_MAX;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status ForEachAtOnce(size_t count, int threads, const std::function<absl::Status(size_t, int)>& work) {
  Calls calls(count, work);
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads && static_cast<size_t>(thread) < count; ++thread) {
    others.emplace_back([&calls, thread] { calls.Run(thread); });
  }
  calls.Run(0);
  for (std::thread& other : others) other.join();
  return calls.error();
}

}  // namespace vlm
