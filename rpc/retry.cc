#include "rpc/retry.h"

#include <algorithm>
#include <string>

#include "absl/strings/cord.h"
#include "vlm/v1/error.pb.h"

namespace vlm::rpc {

Backoff::Backoff(absl::Duration minimum, absl::Duration maximum, RngKey key)
    : minimum_(minimum), maximum_(maximum), bound_(minimum), rng_(key) {}

absl::Duration Backoff::Next() {
  const absl::Duration delay = bound_ * (0.5 + 0.5 * rng_.Uniform());
  bound_ = std::min(bound_ * 2, maximum_);
  return delay;
}

void Backoff::Reset() { bound_ = minimum_; }

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  v1::RetryInfo info;
  const int64_t seconds = absl::ToInt64Seconds(delay);
  info.mutable_retry_delay()->set_seconds(seconds);
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(delay - absl::Seconds(seconds))));
  status.SetPayload(kRetryInfoUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryInfoUrl);
  v1::RetryInfo info;
  if (!payload.has_value() || !info.ParseFromString(std::string(*payload))) return std::nullopt;
  const absl::Duration delay =
      absl::Seconds(info.retry_delay().seconds()) + absl::Nanoseconds(info.retry_delay().nanos());
  return std::max(delay, absl::ZeroDuration());
}

}  // namespace vlm::rpc
