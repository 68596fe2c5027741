// An executor whose functions run when its owner says so, in order of their due time, on a clock that stands still
// until it is moved.
#ifndef VLM_TESTS_FUZZ_DRAINED_EXECUTOR_H_
#define VLM_TESTS_FUZZ_DRAINED_EXECUTOR_H_

#include <functional>
#include <map>
#include <utility>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/executor.h"
#include "base/mutex.h"

namespace vlm::fuzz {

// Thread-safe; functions run on the thread that calls RunDue or Advance, which must be one.
class DrainedExecutor final : public Executor, public Clock {
 public:
  void Post(std::function<void()> function) override { PostAfter(absl::ZeroDuration(), std::move(function)); }
  void PostAfter(absl::Duration delay, std::function<void()> function) override {
    MutexLock lock(&mutex_);
    waiting_.emplace(now_ + delay, std::move(function));
  }
  absl::Duration Monotonic() const override {
    MutexLock lock(&mutex_);
    return now_;
  }
  absl::Time Wall() const override { return absl::FromUnixSeconds(1'700'000'000) + Monotonic(); }

  // What is due, and what that posts; time stands still.
  void RunDue() {
    for (int runs = 0; runs < kRunsMax; ++runs) {
      std::function<void()> function;
      {
        MutexLock lock(&mutex_);
        if (waiting_.empty() || waiting_.begin()->first > now_) return;
        function = std::move(waiting_.extract(waiting_.begin()).mapped());
      }
      function();
    }
  }
  void Advance(absl::Duration by) {
    {
      MutexLock lock(&mutex_);
      now_ += by;
    }
    RunDue();
  }
  void Drop() {
    std::multimap<absl::Duration, std::function<void()>> dropped;  // destroyed without the lock
    {
      MutexLock lock(&mutex_);
      dropped.swap(waiting_);
    }
  }

 private:
  static constexpr int kRunsMax = 10'000;
  mutable Mutex mutex_;
  absl::Duration now_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(100);
  std::multimap<absl::Duration, std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_DRAINED_EXECUTOR_H_
