// A Channel over gRPC, by generic method calls: no generated stub is needed.
#ifndef VLM_RPC_GRPC_CHANNEL_H_
#define VLM_RPC_GRPC_CHANNEL_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/status.h"
#include "rpc/channel.h"

namespace vlm::rpc {

struct GrpcChannelOptions {
  std::string address;                  // see rpc/address.h; a port is required
  Metadata metadata = {};               // sent with every call, for example the authorization
  size_t message_bytes_max = 4u << 20;  // either way; a larger message fails with RESOURCE_EXHAUSTED
  // gRPC's own reconnect backoff grows to two minutes; here it never exceeds `reconnect_max`.
  absl::Duration reconnect_min = absl::Milliseconds(50);
  absl::Duration reconnect_max = absl::Milliseconds(500);
  // A peer whose machine is gone without closing the connection is noticed after both have passed.
  absl::Duration keepalive_interval = absl::Seconds(10);
  absl::Duration keepalive_timeout = absl::Seconds(5);
};

// A channel with a TCP (or Unix) connection of its own, made on first use. Destroying it cancels what is open;
// callbacks may still arrive shortly after, so what they refer to must be owned by them. A call that is cut off because
// the server stops is UNAVAILABLE: CANCELLED is told only after the channel was destroyed.
// INVALID_ARGUMENT for an address that is not this machine's, or has no port.
absl::StatusOr<std::unique_ptr<Channel>> NewGrpcChannel(const GrpcChannelOptions& options);

}  // namespace vlm::rpc

#endif  // VLM_RPC_GRPC_CHANNEL_H_
