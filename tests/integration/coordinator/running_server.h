// A coordinator with a real database and real gRPC in a temporary folder, and clients of it.
#ifndef VLM_TESTS_INTEGRATION_COORDINATOR_RUNNING_SERVER_H_
#define VLM_TESTS_INTEGRATION_COORDINATOR_RUNNING_SERVER_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "coordinator/server.h"
#include "rpc/channel.h"
#include "rpc/token.h"
#include "vlm/v1/job.pb.h"

namespace vlm::coordinator {

inline constexpr absl::Duration kPatience = absl::Seconds(40);  // of every wait; machines in CI are slow

// Remembers messages of a stream and lets a test wait for them.
class Inbox final : public rpc::StreamReceiver {
 public:
  void OnMessage(std::string message) override;
  void OnClosed(absl::Status status) override;
  // The next message; the status with which the stream ended when there is none; DEADLINE_EXCEEDED when it takes
  // too long.
  absl::StatusOr<std::string> Next();
  template <typename Message>
  absl::StatusOr<Message> Next() {
    VLM_ASSIGN_OR_RETURN(const std::string bytes, Next());
    Message message;
    if (!message.ParseFromString(bytes)) return absl::InternalError("a message does not parse");
    return message;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> messages_ ABSL_GUARDED_BY(mutex_);
  size_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<absl::Status> closed_ ABSL_GUARDED_BY(mutex_);
};

class RunningServer {
 public:
  // In a folder of its own, made when missing and never cleaned: a second RunningServer of the same name is a
  // restart.
  explicit RunningServer(const std::string& name);

  // Serves; the error of Server::Create else.
  absl::Status Start();
  void Stop();
  ServerOptions& options() { return options_; }
  Server* server() { return server_.get(); }
  const std::string& folder() const { return folder_; }

  std::shared_ptr<rpc::Channel> ChannelAs(const std::string& role);  // "user", "worker" or "" (no token)

  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(const std::string& method, const Request& request, const std::string& role = "user",
                                const rpc::Metadata& metadata = {}) {
    return rpc::CallAndWait<Response>(ChannelAs(role).get(), "/vlm.v1." + method, request,
                                      {.deadline = kPatience, .wait_for_ready = true, .metadata = metadata});
  }
  absl::StatusOr<std::string> Submit(const std::string& yaml, const std::string& request_id);
  v1::Job GetJob(const std::string& job_id);

 private:
  std::string folder_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
};

// A job of one pool stage, `generate`, with `shards` shards.
std::string GenerateJob(const std::string& name, int shards = 2);

}  // namespace vlm::coordinator

#endif  // VLM_TESTS_INTEGRATION_COORDINATOR_RUNNING_SERVER_H_
