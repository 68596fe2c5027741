// The server side of the seam: handlers by method name. The same registry is served by gRPC
// (rpc/grpc_server.h) and in memory (rpc/memory_transport.h).
#ifndef VLM_RPC_SERVER_H_
#define VLM_RPC_SERVER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "base/status.h"
#include "rpc/channel.h"

namespace vlm::rpc {

struct CallContext {
  Metadata metadata;        // as sent by the client, keys in lower case
  absl::Duration deadline;  // left when the call arrived
  std::string peer;
};

// Answers exactly once, from any thread, now or later.
using Respond = std::function<void(absl::StatusOr<std::string>)>;
// Runs on a thread of the transport: must not block.
using UnaryHandler = std::function<void(const CallContext&, std::string request, Respond)>;
// Accepts a stream: `stream` sends to the client; the returned receiver gets its messages. A handler that
// refuses closes the stream with a status and returns a receiver all the same.
using StreamHandler =
    std::function<std::shared_ptr<StreamReceiver>(const CallContext&, std::shared_ptr<Stream> stream)>;

// Filled before serving starts, immutable after. Not thread-safe while being filled.
struct ServiceRegistry {
  std::map<std::string, UnaryHandler> unary;  // by "/package.Service/Method"
  std::map<std::string, StreamHandler> streams;

  // Registers a handler of typed messages: void(const CallContext&, Request, function<void(StatusOr<Response>)>).
  // A request that does not parse is answered INVALID_ARGUMENT.
  template <typename Request, typename Response, typename Handler>
  void AddUnary(std::string method, Handler handler) {
    unary[std::move(method)] = [handler = std::move(handler)](const CallContext& context, std::string bytes,
                                                              Respond respond) {
      Request request;
      if (!request.ParseFromString(bytes)) {
        respond(absl::InvalidArgumentError("request does not parse"));
        return;
      }
      handler(context, std::move(request), [respond = std::move(respond)](absl::StatusOr<Response> response) {
        if (response.ok()) {
          respond(response->SerializeAsString());
        } else {
          respond(response.status());
        }
      });
    };
  }
};

}  // namespace vlm::rpc

#endif  // VLM_RPC_SERVER_H_
