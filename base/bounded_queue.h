// A blocking queue with a fixed capacity between threads.
#ifndef VLM_BASE_BOUNDED_QUEUE_H_
#define VLM_BASE_BOUNDED_QUEUE_H_

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "base/mutex.h"

namespace vlm {

// Thread-safe. After Close(), pushes fail and pops drain what is left, then return nothing.
template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  // Blocks while full; false when the queue was closed (the value is dropped).
  bool Push(T value) {
    MutexLock lock(&mutex_);
    while (!closed_ && values_.size() >= capacity_) changed_.Wait(&mutex_);
    if (closed_) return false;
    values_.push_back(std::move(value));
    changed_.NotifyAll();
    return true;
  }

  // Never blocks; false when full or closed.
  bool TryPush(T value) {
    MutexLock lock(&mutex_);
    if (closed_ || values_.size() >= capacity_) return false;
    values_.push_back(std::move(value));
    changed_.NotifyAll();
    return true;
  }

  // Blocks while empty; nothing when closed and drained.
  std::optional<T> Pop() {
    MutexLock lock(&mutex_);
    while (!closed_ && values_.empty()) changed_.Wait(&mutex_);
    if (values_.empty()) return std::nullopt;
    T value = std::move(values_.front());
    values_.pop_front();
    changed_.NotifyAll();
    return value;
  }

  void Close() {
    MutexLock lock(&mutex_);
    closed_ = true;
    changed_.NotifyAll();
  }

  size_t size() const {
    MutexLock lock(&mutex_);
    return values_.size();
  }

 private:
  const size_t capacity_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<T> values_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vlm

#endif  // VLM_BASE_BOUNDED_QUEUE_H_
