#include "base/executor.h"

#include <pthread.h>

#include <map>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/mutex.h"

namespace vlm {
namespace {

class ThreadExecutor final : public Executor {
 public:
  explicit ThreadExecutor(std::string name) : thread_([this] { Run(); }) {
    pthread_setname_np(thread_.native_handle(), name.substr(0, 15).c_str());
  }

  ~ThreadExecutor() override {
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
    }
    changed_.NotifyAll();
    thread_.join();
  }

  void Post(std::function<void()> function) override { PostAfter(absl::ZeroDuration(), std::move(function)); }

  void PostAfter(absl::Duration delay, std::function<void()> function) override {
    {
      MutexLock lock(&mutex_);
      due_.emplace(std::make_pair(RealClock()->Monotonic() + delay, next_sequence_++), std::move(function));
    }
    changed_.NotifyOne();
  }

 private:
  void Run() {
    while (true) {
      std::function<void()> function;
      {
        MutexLock lock(&mutex_);
        while (true) {
          if (stopping_) return;
          if (due_.empty()) {
            changed_.Wait(&mutex_);
            continue;
          }
          const absl::Duration wait = due_.begin()->first.first - RealClock()->Monotonic();
          if (wait <= absl::ZeroDuration()) break;
          changed_.WaitFor(&mutex_, wait);
        }
        function = std::move(due_.begin()->second);
        due_.erase(due_.begin());
      }
      function();
    }
  }

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  // (due time, posting order) -> function
  std::map<std::pair<absl::Duration, uint64_t>, std::function<void()>> due_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // last: starts when everything above exists
};

}  // namespace

std::unique_ptr<Executor> NewThreadExecutor(std::string name) {
  return std::make_unique<ThreadExecutor>(std::move(name));
}

}  // namespace vlm
