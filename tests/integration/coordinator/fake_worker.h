// A worker of the coordinator's tests: speaks the session's protocol, does a pool's work itself.
#ifndef VLM_TESTS_INTEGRATION_COORDINATOR_FAKE_WORKER_H_
#define VLM_TESTS_INTEGRATION_COORDINATOR_FAKE_WORKER_H_

#include <memory>
#include <string>
#include <vector>

#include "rpc/token.h"
#include "tests/integration/coordinator/running_server.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/data.pb.h"
#include "vlm/v1/worker.pb.h"

namespace vlm::coordinator {

// Not thread-safe: a test's own thread. One CPU slot.
class FakeWorker {
 public:
  FakeWorker(RunningServer* server, std::string node_id) : server_(server), node_id_(std::move(node_id)) {}

  // Says Hello, holding `held`; returns Welcome.
  absl::StatusOr<v1::Welcome> Connect(const std::vector<v1::HeldRank>& held = {});
  // The next message of this kind. Root checks on the way are answered truthfully, others skipped.
  absl::StatusOr<v1::SessionResponse> WaitFor(v1::SessionResponse::KindCase kind);
  void Send(v1::SessionRequest message);
  // The rank runs.
  void Ready(const v1::Assign& assign);
  void Exit(const v1::Assign& assign, int exit_code);
  // Leases and commits shards until all are done; `stop_after` shards (when not negative) only. The finish task
  // commits the stage's one step.
  absl::Status DoShards(const v1::Assign& assign, int stop_after = -1);

  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(const std::string& method, const Request& request) {
    return server_->Call<Response>(method, request, "worker", {{rpc::kNodeIdKey, node_id_}});
  }

 private:
  absl::Status CommitStep(const v1::Assign& assign);
  void CheckRoot(const v1::CheckRoot& check);

  RunningServer* const server_;
  const std::string node_id_;
  uint64_t sequence_ = 0;
  std::shared_ptr<rpc::Channel> channel_;
  std::shared_ptr<Inbox> inbox_;
  std::unique_ptr<rpc::Stream> stream_;
};

}  // namespace vlm::coordinator

#endif  // VLM_TESTS_INTEGRATION_COORDINATOR_FAKE_WORKER_H_
