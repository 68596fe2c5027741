#include "rpc/retry.h"

#include <algorithm>
#include <utility>

#include "rpc/answer_wait.h"

namespace vlm::rpc {
namespace {

class RetryingCall : public std::enable_shared_from_this<RetryingCall> {
 public:
  RetryingCall(Channel* channel, Executor* executor, std::string method, std::string request, CallOptions call_options,
               const RetryOptions& options, RngKey jitter, Channel::Done done)
      : channel_(channel),
        executor_(executor),
        method_(std::move(method)),
        request_(std::move(request)),
        call_options_(std::move(call_options)),
        backoff_(options.backoff_min, options.backoff_max, jitter),
        attempts_left_(options.attempts_max),
        done_(std::move(done)) {}

  void Try() {
    --attempts_left_;
    channel_->Call(method_, request_, call_options_, [self = shared_from_this()](absl::StatusOr<std::string> answer) {
      if (!absl::IsUnavailable(answer.status()) || self->attempts_left_ <= 0) {
        self->done_(std::move(answer));
        return;
      }
      self->executor_->PostAfter(self->backoff_.Next(), [self] { self->Try(); });
    });
  }

 private:
  Channel* const channel_;
  Executor* const executor_;
  const std::string method_;
  const std::string request_;
  const CallOptions call_options_;
  Backoff backoff_;
  int attempts_left_;
  const Channel::Done done_;
};

}  // namespace

Backoff::Backoff(absl::Duration minimum, absl::Duration maximum, RngKey key)
    : minimum_(minimum), maximum_(maximum), bound_(minimum), rng_(key) {}

absl::Duration Backoff::Next() {
  const absl::Duration delay = bound_ * (0.5 + 0.5 * rng_.Uniform());
  bound_ = std::min(bound_ * 2, maximum_);
  return delay;
}

void Backoff::Reset() { bound_ = minimum_; }

void CallWithRetry(Channel* channel, Executor* executor, std::string method, std::string request,
                   CallOptions call_options, RetryOptions options, RngKey jitter, Channel::Done done) {
  std::make_shared<RetryingCall>(channel, executor, std::move(method), std::move(request), std::move(call_options),
                                 options, jitter, std::move(done))
      ->Try();
}

absl::StatusOr<std::string> CallAndWaitWithRetry(Channel* channel, Executor* executor, std::string method,
                                                 std::string request, CallOptions call_options, RetryOptions options,
                                                 RngKey jitter) {
  return WaitForAnswer([&](Channel::Done done) {
    CallWithRetry(channel, executor, std::move(method), std::move(request), std::move(call_options), options, jitter,
                  std::move(done));
  });
}

}  // namespace vlm::rpc
