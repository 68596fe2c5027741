// An executor that can be stopped while others still post to it, so that actors which post to each other can be
// taken down in any order.
#ifndef VLM_BASE_STOPPABLE_EXECUTOR_H_
#define VLM_BASE_STOPPABLE_EXECUTOR_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/executor.h"
#include "base/mutex.h"

namespace vlm {

// One thread, as NewThreadExecutor, or the thread of the executor it is given. Thread-safe.
class StoppableExecutor final : public Executor {
 public:
  explicit StoppableExecutor(std::string name) : inner_(NewThreadExecutor(std::move(name))) {}
  explicit StoppableExecutor(std::unique_ptr<Executor> inner) : inner_(std::move(inner)) {}
  ~StoppableExecutor() override { Stop(); }

  void Post(std::function<void()> function) override { PostAfter(absl::ZeroDuration(), std::move(function)); }
  void PostAfter(absl::Duration delay, std::function<void()> function) override {
    MutexLock lock(&mutex_);
    if (inner_ != nullptr) inner_->PostAfter(delay, std::move(function));
  }

  // Destroys what runs the functions: waits for the one that runs, drops what waits and everything posted later. Not
  // from its own thread.
  void Stop() {
    std::unique_ptr<Executor> stopping;
    {
      MutexLock lock(&mutex_);
      stopping = std::move(inner_);
    }
  }

 private:
  Mutex mutex_;
  std::unique_ptr<Executor> inner_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm

#endif  // VLM_BASE_STOPPABLE_EXECUTOR_H_
