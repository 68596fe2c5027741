#include "worker/call_relay.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/retry.h"

namespace vlm::worker {
namespace {

constexpr absl::Duration kBackoffMin = absl::Milliseconds(50);
constexpr absl::Duration kBackoffMax = absl::Milliseconds(500);
// One try; a service that has not answered by then is asked again.
constexpr absl::Duration kTryMax = absl::Seconds(10);

// The service has said nothing about the call itself: it is away, or too busy to look at it.
bool IsAway(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || rpc::RetryDelayOf(status).has_value();
}

}  // namespace

struct CallRelay::Try {
  std::string method;
  std::string request;
  absl::Duration end;       // on the clock; infinite for stored calls
  absl::Duration away_end;  // on the clock: an answer of a service that is away is passed on from here
  rpc::Channel::Done done;
  rpc::Backoff backoff;
};

CallRelay::CallRelay(const Parts& parts) : parts_(parts), self_(std::make_shared<CallRelay*>(this)) {}

CallRelay::~CallRelay() { *self_ = nullptr; }

void CallRelay::Forward(std::string method, std::string request, absl::Duration deadline, rpc::Channel::Done done,
                        absl::Duration away_max) {
  if (waiting() >= kWaitingMax) {
    done(absl::ResourceExhaustedError("too many calls wait for the coordinator: " + std::to_string(waiting())));
    return;
  }
  ++forwarded_;
  Attempt(
      std::make_shared<Try>(Try{.method = std::move(method),
                                .request = std::move(request),
                                .end = parts_.clock->Monotonic() + deadline,
                                .away_end = parts_.clock->Monotonic() + away_max,
                                .done =
                                    [this, done = std::move(done)](absl::StatusOr<std::string> answer) {
                                      --forwarded_;
                                      done(std::move(answer));
                                    },
                                .backoff = rpc::Backoff(kBackoffMin, kBackoffMax, parts_.jitter.Derive(++calls_))}));
}

void CallRelay::Attempt(std::shared_ptr<Try> attempt) {
  const absl::Duration left = attempt->end - parts_.clock->Monotonic();
  if (left <= absl::ZeroDuration()) {
    attempt->done(absl::DeadlineExceededError("the coordinator did not answer in time: " + attempt->method));
    return;
  }
  rpc::CallOptions options;
  options.deadline = std::min(left, kTryMax);
  parts_.channel->Call(
      attempt->method, attempt->request, options,
      [self = self_, executor = parts_.executor, attempt](absl::StatusOr<std::string> answer) {
        executor->Post([self, attempt, answer = std::move(answer)]() mutable {
          if (*self == nullptr) return;
          CallRelay* const relay = *self;
          if (!IsAway(answer.status())) {
            attempt->done(std::move(answer));
            return;
          }
          if (relay->parts_.clock->Monotonic() >= attempt->away_end) {
            attempt->done(absl::UnavailableError(
                absl::StrCat("the coordinator is away: ", attempt->method, ": ", answer.status().message())));
            return;
          }
          const absl::Duration asked = rpc::RetryDelayOf(answer.status()).value_or(absl::ZeroDuration());
          const absl::Duration pause = std::max(attempt->backoff.Next(), asked);
          const absl::Duration rest = attempt->end - relay->parts_.clock->Monotonic();
          relay->parts_.executor->PostAfter(std::min(pause, std::max(rest, absl::ZeroDuration())), [self, attempt] {
            if (*self != nullptr) (*self)->Attempt(attempt);
          });
        });
      });
}

void CallRelay::Deliver(StoredCall call, absl::Duration deadline, rpc::Channel::Done done) {
  const auto once = std::make_shared<rpc::Channel::Done>(std::move(done));
  const auto answer_once = [once](absl::StatusOr<std::string> answer) {
    if (*once) std::exchange(*once, nullptr)(std::move(answer));
  };
  if (deadline != absl::InfiniteDuration()) {
    parts_.executor->PostAfter(deadline, [answer_once] {
      answer_once(absl::DeadlineExceededError("the coordinator has not answered yet; the call is kept and goes on"));
    });
  }
  const std::string name = call.name;
  if (const auto known = stored_.find(name); known != stored_.end()) {
    if (known->second.call.request == call.request) {
      known->second.waiting.push_back(answer_once);
    } else {
      answer_once(absl::FailedPreconditionError("another call with this name is on its way: " + name));
    }
    return;
  }
  if (waiting() >= kWaitingMax) {
    answer_once(absl::ResourceExhaustedError("too many calls wait for the coordinator: " + std::to_string(waiting())));
    return;
  }
  stored_[name] = {.call = call, .waiting = {answer_once}};
  parts_.metrics->CallsWaiting(stored_.size());
  parts_.disk->Post([self = self_, parts = parts_, call = std::move(call)] {
    absl::Status written = parts.state->StoreCall(call);
    parts.executor->Post([self, name = call.name, written = std::move(written)] {
      if (*self == nullptr) return;
      // A full disk of this machine is no reason to lose the rank's save.
      if (!written.ok() && (*self)->parts_.unkept) (*self)->parts_.unkept(written);
      (*self)->SendStored(name);
    });
  });
}

void CallRelay::Resume(std::vector<StoredCall> calls) {
  for (StoredCall& call : calls) {
    const std::string name = call.name;
    stored_[name] = {.call = std::move(call), .waiting = {}};
    SendStored(name);
  }
  parts_.metrics->CallsWaiting(stored_.size());
}

void CallRelay::SendStored(const std::string& name) {
  const auto it = stored_.find(name);
  if (it == stored_.end()) return;
  Attempt(
      std::make_shared<Try>(Try{.method = it->second.call.method,
                                .request = it->second.call.request,
                                .end = absl::InfiniteDuration(),
                                .away_end = absl::InfiniteDuration(),
                                .done = [this, name](absl::StatusOr<std::string> answer) { Settle(name, answer); },
                                .backoff = rpc::Backoff(kBackoffMin, kBackoffMax, parts_.jitter.Derive(++calls_))}));
}

void CallRelay::Settle(const std::string& name, const absl::StatusOr<std::string>& answer) {
  const auto it = stored_.find(name);
  if (it == stored_.end()) return;
  const std::vector<rpc::Channel::Done> waiting = std::move(it->second.waiting);
  stored_.erase(it);
  parts_.metrics->CallsWaiting(stored_.size());
  // A row that stays is sent once more by the next incarnation: the service answers the same.
  parts_.disk->Post([state = parts_.state, name] { (void)state->RemoveCall(name); });
  for (const rpc::Channel::Done& done : waiting) done(answer);
}

}  // namespace vlm::worker
