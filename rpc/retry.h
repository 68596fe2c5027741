// When to call again: what a client makes up itself while a service is away, and what a busy service asks for.
//
// Only for methods that are idempotent, which all of ours are.
#ifndef VLM_RPC_RETRY_H_
#define VLM_RPC_RETRY_H_

#include <optional>

#include "absl/time/time.h"
#include "base/random.h"
#include "base/status.h"

namespace vlm::rpc {

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

// Metadata of a call that a worker passes on for a rank: for how many milliseconds it is made again while the service
// is away. It is then UNAVAILABLE. Without it, or when it is no number, the call is made again up to its deadline.
inline constexpr char kAwayMillisecondsKey[] = "vlm-away-ms";

inline constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";

// `status`, which must not be OK, with the delay as google.rpc.RetryInfo: the service was too busy to look at the call,
// and the same call may succeed after the delay.
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);
// That of a status, never negative; nothing when it carries none, or something that does not parse.
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

}  // namespace vlm::rpc

#endif  // VLM_RPC_RETRY_H_
