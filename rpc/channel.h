// The client side of the seam between code and network: calls and streams of serialized messages, by method
// name. Implementations: gRPC (rpc/grpc_channel.h) and memory (rpc/memory_transport.h).
#ifndef VLM_RPC_CHANNEL_H_
#define VLM_RPC_CHANNEL_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "base/status.h"

namespace vlm::rpc {

using Metadata = std::map<std::string, std::string>;

struct CallOptions {
  absl::Duration deadline = absl::Seconds(10);  // for the whole call; streams have none
  bool wait_for_ready = false;                  // else UNAVAILABLE at once while not connected
  Metadata metadata = {};
};

// What one side of a stream sees. Calls for one stream never overlap and arrive in order, on a thread of the
// transport: post to your own executor, do not block.
class StreamReceiver {
 public:
  virtual ~StreamReceiver() = default;
  virtual void OnMessage(std::string message) = 0;
  // Last call. On a client the server's status; on a server OK when the client ended the stream, CANCELLED
  // when the connection broke.
  virtual void OnClosed(absl::Status status) = 0;
};

// One side of an open bidirectional stream. Thread-safe, never blocks. Destroying it cancels the stream;
// OnClosed still arrives.
class Stream {
 public:
  virtual ~Stream() = default;
  // Queues a message. False when the stream is closed or 1,024 messages are waiting (the message is dropped:
  // the caller decides what to do about a peer that does not read).
  virtual bool Send(std::string message) = 0;
  // Server: ends the stream with `status` after what was sent. Client: half-closes (status is ignored).
  virtual void Close(absl::Status status) = 0;
};

// Thread-safe.
class Channel {
 public:
  virtual ~Channel() = default;
  using Done = std::function<void(absl::StatusOr<std::string>)>;
  // `method` is "/package.Service/Method". `done` runs exactly once, on a thread of the transport.
  virtual void Call(std::string_view method, std::string request, const CallOptions& options, Done done) = 0;
  // `receiver` must outlive OnClosed.
  virtual std::unique_ptr<Stream> Open(std::string_view method, const CallOptions& options,
                                       std::shared_ptr<StreamReceiver> receiver) = 0;
};

// Calls and waits. Not from a thread of the transport.
absl::StatusOr<std::string> CallAndWait(Channel* channel, std::string_view method, std::string request,
                                        const CallOptions& options);

// The same with typed messages. INTERNAL when the answer does not parse.
template <typename Response, typename Request>
absl::StatusOr<Response> CallAndWait(Channel* channel, std::string_view method, const Request& request,
                                     const CallOptions& options = {}) {
  absl::StatusOr<std::string> bytes = CallAndWait(channel, method, request.SerializeAsString(), options);
  if (!bytes.ok()) return bytes.status();
  Response response;
  if (!response.ParseFromString(*bytes)) {
    return absl::InternalError("answer does not parse as the method's response: " + std::string(method));
  }
  return response;
}

}  // namespace vlm::rpc

#endif  // VLM_RPC_CHANNEL_H_
