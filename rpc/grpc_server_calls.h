// The server's half of one gRPC call or stream. Included by grpc_server.cc only.
#ifndef VLM_RPC_GRPC_SERVER_CALLS_H_
#define VLM_RPC_GRPC_SERVER_CALLS_H_

#include <grpcpp/generic/async_generic_service.h>

#include <cstddef>
#include <memory>
#include <set>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/status.h"
#include "rpc/server.h"

namespace vlm::rpc {

// A call that the server can end on its own account.
class ServerCall {
 public:
  virtual ~ServerCall() = default;
  virtual void Abort(const absl::Status& status) = 0;
};

// What a server has open. Thread-safe.
class OpenServerCalls {
 public:
  // False once draining: refuse the call.
  bool Add(std::shared_ptr<ServerCall> call);
  void Remove(const std::shared_ptr<ServerCall>& call);
  // Refuses new calls from now on, waits up to `grace` for the open ones, then aborts them.
  void Drain(absl::Duration grace);

 private:
  Mutex mutex_;
  CondVar changed_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<std::shared_ptr<ServerCall>> calls_ ABSL_GUARDED_BY(mutex_);
};

// Each returns a reactor that owns itself until gRPC is done with it. `handler` must outlive the server.
grpc::ServerGenericBidiReactor* StartUnary(grpc::GenericCallbackServerContext* context, const UnaryHandler& handler,
                                           OpenServerCalls* open);
grpc::ServerGenericBidiReactor* StartStream(grpc::GenericCallbackServerContext* context, const StreamHandler& handler,
                                            OpenServerCalls* open);
grpc::ServerGenericBidiReactor* Refuse(const absl::Status& status);

}  // namespace vlm::rpc

#endif  // VLM_RPC_GRPC_SERVER_CALLS_H_
