// Calls again when a service is away. Only for methods that are idempotent, which all of ours are.
#ifndef VLM_RPC_RETRY_H_
#define VLM_RPC_RETRY_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "base/executor.h"
#include "base/random.h"
#include "rpc/channel.h"

namespace vlm::rpc {

struct RetryOptions {
  int attempts_max = 5;  // calls in all; afterwards the last status is the answer
  absl::Duration backoff_min = absl::Milliseconds(50);
  absl::Duration backoff_max = absl::Seconds(2);
};

// Exponential backoff with full jitter between half and the whole of the bound, so that clients of a restarted
// service do not return together. Not thread-safe.
class Backoff {
 public:
  Backoff(absl::Duration minimum, absl::Duration maximum, RngKey key);
  absl::Duration Next();
  void Reset();

 private:
  const absl::Duration minimum_;
  const absl::Duration maximum_;
  absl::Duration bound_;
  Rng rng_;
};

// Calls until the answer is anything but UNAVAILABLE or `attempts_max` is reached. `done` runs exactly once.
// `channel` and `executor` must live until then.
void CallWithRetry(Channel* channel, Executor* executor, std::string method, std::string request,
                   CallOptions call_options, RetryOptions options, RngKey jitter, Channel::Done done);

// The same, waiting for the answer. Not from a thread of the transport or of `executor`.
absl::StatusOr<std::string> CallAndWaitWithRetry(Channel* channel, Executor* executor, std::string method,
                                                 std::string request, CallOptions call_options, RetryOptions options,
                                                 RngKey jitter);

}  // namespace vlm::rpc

#endif  // VLM_RPC_RETRY_H_
