// Receivers and handlers for tests of transports.
#ifndef VLM_TESTS_UNIT_RPC_WAITING_RECEIVER_H_
#define VLM_TESTS_UNIT_RPC_WAITING_RECEIVER_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "rpc/server.h"

namespace vlm::rpc {

// Remembers what arrives and lets a test wait for it. A wait ends after 20 s at the latest.
class WaitingReceiver final : public StreamReceiver {
 public:
  void OnMessage(std::string message) override {
    MutexLock lock(&mutex_);
    after_close_ = after_close_ || closed_.has_value();
    messages_.push_back(std::move(message));
    changed_.NotifyAll();
  }
  void OnClosed(absl::Status status) override {
    MutexLock lock(&mutex_);
    after_close_ = after_close_ || closed_.has_value();
    closed_ = std::move(status);
    changed_.NotifyAll();
  }

  std::vector<std::string> WaitForMessages(size_t count) {
    MutexLock lock(&mutex_);
    while (messages_.size() < count && !closed_) {
      if (!changed_.WaitFor(&mutex_, absl::Seconds(20))) break;
    }
    return messages_;
  }
  absl::Status WaitForClose() {
    MutexLock lock(&mutex_);
    while (!closed_) {
      if (!changed_.WaitFor(&mutex_, absl::Seconds(20))) return absl::UnknownError("OnClosed never came");
    }
    return *closed_;
  }
  // A message or a second close after OnClosed.
  bool saw_anything_after_close() {
    MutexLock lock(&mutex_);
    return after_close_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> messages_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> closed_ ABSL_GUARDED_BY(mutex_);
  bool after_close_ ABSL_GUARDED_BY(mutex_) = false;
};

// A one-shot event.
class Event {
 public:
  void Set() {
    MutexLock lock(&mutex_);
    set_ = true;
    changed_.NotifyAll();
  }
  bool Wait() {
    MutexLock lock(&mutex_);
    while (!set_) {
      if (!changed_.WaitFor(&mutex_, absl::Seconds(20))) return false;
    }
    return true;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool set_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vlm::rpc

#endif  // VLM_TESTS_UNIT_RPC_WAITING_RECEIVER_H_
