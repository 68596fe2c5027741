// Serves a ServiceRegistry over gRPC, and grpc.health.v1.Health/Check beside it.
#ifndef VLM_RPC_GRPC_SERVER_H_
#define VLM_RPC_GRPC_SERVER_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/status.h"
#include "rpc/server.h"

namespace vlm::rpc {

struct GrpcServerOptions {
  std::string address;                  // see rpc/address.h; port 0 chooses a free one
  size_t message_bytes_max = 4u << 20;  // a larger request is answered RESOURCE_EXHAUSTED
};

// Thread-safe. Handlers run on gRPC's threads.
class GrpcServer {
 public:
  // INVALID_ARGUMENT for an address that is not this machine's; ALREADY_EXISTS, naming the port or the socket,
  // when another process listens there. A Unix socket left by a dead process is replaced; its mode is 0600.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Create(const GrpcServerOptions& options, ServiceRegistry registry);
  ~GrpcServer();  // Shutdown(0) when that has not been done
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // The bound address, usable as GrpcChannelOptions::address.
  const std::string& address() const;
  int port() const;  // 0 for a Unix socket

  // Refuses new calls, lets open ones finish for `grace`, then cancels them; blocks until all have ended.
  // Streams count as open calls, so a server with sessions takes the whole grace. Not from a handler.
  void Shutdown(absl::Duration grace);

 private:
  class Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vlm::rpc

#endif  // VLM_RPC_GRPC_SERVER_H_
