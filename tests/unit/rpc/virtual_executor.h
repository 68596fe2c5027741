// An executor under virtual time for tests of one transport or core.
#ifndef VLM_TESTS_UNIT_RPC_VIRTUAL_EXECUTOR_H_
#define VLM_TESTS_UNIT_RPC_VIRTUAL_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "base/executor.h"

namespace vlm::rpc {

class VirtualExecutor final : public Executor {
 public:
  void Post(std::function<void()> function) override { PostAfter(absl::ZeroDuration(), std::move(function)); }
  void PostAfter(absl::Duration delay, std::function<void()> function) override {
    due_.emplace(std::make_pair(now_ + delay, sequence_++), std::move(function));
  }
  // Runs everything due up to `end`, advancing the clock.
  void RunUntil(absl::Duration end) {
    while (!due_.empty() && due_.begin()->first.first <= end) {
      now_ = due_.begin()->first.first;
      std::function<void()> function = std::move(due_.begin()->second);
      due_.erase(due_.begin());
      function();
    }
    now_ = end;
  }
  absl::Duration now() const { return now_; }

 private:
  absl::Duration now_ = absl::ZeroDuration();
  uint64_t sequence_ = 0;
  std::map<std::pair<absl::Duration, uint64_t>, std::function<void()>> due_;
};

}  // namespace vlm::rpc

#endif  // VLM_TESTS_UNIT_RPC_VIRTUAL_EXECUTOR_H_
