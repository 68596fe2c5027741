#include "tests/integration/coordinator/running_server.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file_system.h"
#include "rpc/grpc_channel.h"

namespace vlm::coordinator {

void Inbox::OnMessage(std::string message) {
  MutexLock lock(&mutex_);
  messages_.push_back(std::move(message));
  changed_.NotifyAll();
}

void Inbox::OnClosed(absl::Status status) {
  MutexLock lock(&mutex_);
  closed_ = std::move(status);
  changed_.NotifyAll();
}

absl::StatusOr<std::string> Inbox::Next() {
  const absl::Duration end = RealClock()->Monotonic() + kPatience;
  MutexLock lock(&mutex_);
  while (taken_ == messages_.size()) {
    if (closed_.has_value()) return closed_->ok() ? absl::OutOfRangeError("the stream has ended well") : *closed_;
    const absl::Duration left = end - RealClock()->Monotonic();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("no message came");
    changed_.WaitFor(&mutex_, left);
  }
  return messages_[taken_++];
}

RunningServer::RunningServer(const std::string& name)
    : folder_(testing::TempDir() + "vlm-coordinator-" + name + "-" +
              std::to_string(testing::UnitTest::GetInstance()->random_seed()) + "-" + std::to_string(getpid())) {
  options_.state_dir = folder_ + "/state";
  options_.artifact_roots = {folder_ + "/artifacts"};
  options_.version = "test";
  // A slow machine is no lost worker.
  options_.core.lease = absl::Minutes(2);
  options_.core.frozen_after = absl::Minutes(5);
  options_.core.reattach_window = absl::Minutes(2);
  options_.core.resend = absl::Milliseconds(200);
  options_.core.tick = absl::Milliseconds(50);
  options_.free_space_floor_bytes = options_.ballast_bytes = 0;  // tests run on small disks, side by side
  options_.on_store_failure = [](const absl::Status& status) {
    ADD_FAILURE() << "the store failed: " << status;
    std::abort();
  };
}

absl::Status RunningServer::Start() {
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Create(options_);
  if (!server.ok()) return server.status();
  server_ = *std::move(server);
  return absl::OkStatus();
}

void RunningServer::Stop() { server_.reset(); }

std::shared_ptr<rpc::Channel> RunningServer::ChannelAs(const std::string& role) {
  rpc::Metadata metadata;
  if (!role.empty()) {
    absl::StatusOr<std::string> token = rpc::ReadTokenFile(options_.state_dir + "/" + role + ".token");
    EXPECT_TRUE(token.ok()) << token.status();
    metadata = rpc::BearerMetadata(*token);
  }
  auto channel = rpc::NewGrpcChannel({.address = server_->address(), .metadata = metadata});
  EXPECT_TRUE(channel.ok()) << channel.status();
  return *std::move(channel);
}

absl::StatusOr<std::string> RunningServer::Submit(const std::string& yaml, const std::string& request_id) {
  v1::SubmitJobRequest request;
  request.set_job_yaml(yaml);
  request.set_request_id(request_id);
  const auto response = Call<v1::SubmitJobResponse>("JobService/SubmitJob", request);
  if (!response.ok()) return response.status();
  return response->job_id();
}

v1::Job RunningServer::GetJob(const std::string& job_id) {
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  const auto response = Call<v1::GetJobResponse>("JobService/GetJob", request);
  EXPECT_TRUE(response.ok()) << response.status();
  return response.ok() ? response->job() : v1::Job();
}

std::string GenerateJob(const std::string& name, int shards) {
  return absl::StrCat(
      "apiVersion: vlm/v1\n"
      "kind: TrainingJob\n"
      "metadata: {name: ",
      name,
      "}\n"
      "spec:\n"
      "  seed: 7\n"
      "  stages:\n"
      "    - name: generate\n"
      "      kind: generate\n"
      "      generate:\n"
      "        shard_samples: 16\n"
      "        splits:\n"
      "          - {name: sentences, samples: ",
      16 * shards,
      "}\n"
      "        image: {min_size: 24, max_size: 30}\n");
}

}  // namespace vlm::coordinator
