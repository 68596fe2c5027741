// Channel and server within one process: the same semantics as gRPC without sockets or threads of its own.
#ifndef VLM_RPC_MEMORY_TRANSPORT_H_
#define VLM_RPC_MEMORY_TRANSPORT_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/executor.h"
#include "rpc/channel.h"
#include "rpc/server.h"

namespace vlm::rpc {

struct MemoryTransportOptions {
  absl::Duration latency = absl::ZeroDuration();  // of every message, one way
  size_t message_bytes_max = 4u << 20;
};

// Everything (handlers, receivers, `done`) runs as functions posted to `executor`, in posting order: with a
// single-threaded virtual-time executor the transport is deterministic. Thread-safe with any executor.
// Channels may outlive the transport; their calls then fail with UNAVAILABLE.
class MemoryTransport {
 public:
  // `executor` must outlive the transport, its channels, and everything open on them.
  explicit MemoryTransport(Executor* executor, MemoryTransportOptions options = {});
  ~MemoryTransport();  // Stop()
  MemoryTransport(const MemoryTransport&) = delete;
  MemoryTransport& operator=(const MemoryTransport&) = delete;

  // Starts serving, or restarts with another registry (what is open on the old one breaks).
  void Serve(ServiceRegistry registry);
  // As if the serving process died: open calls and streams end, clients with UNAVAILABLE, servers with
  // CANCELLED. Calls with wait_for_ready wait for the next Serve.
  void Stop();

  // `peer` is what handlers see as CallContext::peer; `metadata` goes with every call.
  std::unique_ptr<Channel> Connect(std::string peer = "memory", Metadata metadata = {});

 private:
  class Core;
  std::shared_ptr<Core> core_;
};

}  // namespace vlm::rpc

#endif  // VLM_RPC_MEMORY_TRANSPORT_H_
