#include "tests/integration/worker/fake_coordinator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "rpc/token.h"
#include "vlm/v1/data.pb.h"

namespace vlm::worker {
namespace {

void Acknowledge(const v1::RankResult& result, v1::SessionResponse* answer) {
  answer->mutable_result()->set_attempt_id(result.attempt_id());
  answer->mutable_result()->set_rank(result.rank());
}

}  // namespace

class FakeCoordinator::SessionReceiver final : public rpc::StreamReceiver {
 public:
  SessionReceiver(FakeCoordinator* owner, std::shared_ptr<rpc::Stream> stream)
      : owner_(owner), stream_(std::move(stream)) {}
  void OnMessage(std::string bytes) override {
    v1::SessionRequest message;
    ASSERT_TRUE(message.ParseFromString(bytes));
    owner_->OnSession(stream_, message);
  }
  void OnClosed(absl::Status) override { stream_->Close(absl::OkStatus()); }

 private:
  FakeCoordinator* const owner_;
  const std::shared_ptr<rpc::Stream> stream_;
};

class FakeCoordinator::TelemetryReceiver final : public rpc::StreamReceiver {
 public:
  TelemetryReceiver(FakeCoordinator* owner, std::shared_ptr<rpc::Stream> stream)
      : owner_(owner), stream_(std::move(stream)) {}
  void OnMessage(std::string bytes) override {
    v1::ShipTelemetryRequest message;
    ASSERT_TRUE(message.ParseFromString(bytes));
    EXPECT_LE(bytes.size(), 64u << 10);
    owner_->OnTelemetry(stream_, message, bytes.size());
  }
  void OnClosed(absl::Status) override { stream_->Close(absl::OkStatus()); }

 private:
  FakeCoordinator* const owner_;
  const std::shared_ptr<rpc::Stream> stream_;
};

FakeCoordinator::FakeCoordinator(std::string token) : token_(std::move(token)) {}

void FakeCoordinator::Start(uint64_t epoch) {
  Stop();
  {
    MutexLock lock(&mutex_);
    epoch_ = epoch;
  }
  auto server = rpc::GrpcServer::Create(
      {.address = address_}, rpc::RequireToken(Registry(), {{"worker", token_}}, {{"/vlm.v1.", {"worker"}}}));
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  address_ = server_->address();
}

void FakeCoordinator::Stop() {
  server_.reset();
  std::vector<std::function<void(absl::StatusOr<v1::AddPartResponse>)>> dropped;  // unanswered; not under the lock
  MutexLock lock(&mutex_);
  dropped.swap(held_parts_);
  hold_parts_ = false;
  session_ = nullptr;
}

void FakeCoordinator::HoldParts() {
  MutexLock lock(&mutex_);
  hold_parts_ = true;
}

void FakeCoordinator::Allow(const std::string& attempt_id, uint64_t fence) {
  MutexLock lock(&mutex_);
  allowed_[attempt_id] = fence;
}

void FakeCoordinator::Disallow() {
  MutexLock lock(&mutex_);
  allowed_.clear();
}

void FakeCoordinator::RefuseHellos(absl::Status status) {
  MutexLock lock(&mutex_);
  refusal_ = std::move(status);
}

void FakeCoordinator::AcknowledgeResults(bool yes) {
  MutexLock lock(&mutex_);
  acknowledge_results_ = yes;
}

template <typename Request, typename Response>
void FakeCoordinator::AddCheckpointCall(const std::string& name, rpc::ServiceRegistry* registry) {
  registry->AddUnary<Request, Response>("/vlm.v1.CheckpointService/" + name,
                                        [this, name](const rpc::CallContext&, const Request&,
                                                     const std::function<void(absl::StatusOr<Response>)>& respond) {
                                          {
                                            MutexLock lock(&mutex_);
                                            checkpoint_calls_.push_back(name);
                                            changed_.NotifyAll();
                                          }
                                          respond(Response());
                                        });
}

rpc::ServiceRegistry FakeCoordinator::Registry() {
  rpc::ServiceRegistry registry;
  registry.streams["/vlm.v1.WorkerService/Session"] = [this](const rpc::CallContext&,
                                                             std::shared_ptr<rpc::Stream> stream) {
    {
      MutexLock lock(&mutex_);
      session_ = stream;
      sequence_ = handled_ = 0;
    }
    return std::make_shared<SessionReceiver>(this, std::move(stream));
  };
  registry.streams["/vlm.v1.WorkerService/ShipTelemetry"] = [this](const rpc::CallContext&,
                                                                   std::shared_ptr<rpc::Stream> stream) {
    return std::make_shared<TelemetryReceiver>(this, std::move(stream));
  };
  registry.AddUnary<v1::LeaseShardsRequest, v1::LeaseShardsResponse>(
      "/vlm.v1.DataService/LeaseShards",
      [this](const rpc::CallContext& context, const v1::LeaseShardsRequest& request,
             const std::function<void(absl::StatusOr<v1::LeaseShardsResponse>)>& respond) {
        const auto node = context.metadata.find(rpc::kNodeIdKey);
        if (node == context.metadata.end() || node->second != WaitForHello(1).node_id()) {
          respond(absl::PermissionDeniedError("the call does not name its worker"));
          return;
        }
        v1::LeaseShardsResponse response;
        auto* lease = response.add_leases();
        lease->set_shard(4);
        lease->set_lease_id(4000 + request.rank());
        respond(response);
      });
  AddCheckpointCall<v1::OpenAttemptRequest, v1::OpenAttemptResponse>("OpenAttempt", &registry);
  AddCheckpointCall<v1::BeginStepRequest, v1::BeginStepResponse>("BeginStep", &registry);
  AddCheckpointCall<v1::CommitArtifactRequest, v1::CommitArtifactResponse>("CommitArtifact", &registry);
  AddCheckpointCall<v1::GetStepRequest, v1::GetStepResponse>("GetStep", &registry);
  AddCheckpointCall<v1::ListStepsRequest, v1::ListStepsResponse>("ListSteps", &registry);
  AddCheckpointCall<v1::GetLatestRequest, v1::GetLatestResponse>("GetLatest", &registry);
  AddCheckpointCall<v1::DeleteStepRequest, v1::DeleteStepResponse>("DeleteStep", &registry);
  AddCheckpointCall<v1::VerifyStepRequest, v1::VerifyStepResponse>("VerifyStep", &registry);
  registry.AddUnary<v1::AddPartRequest, v1::AddPartResponse>(
      "/vlm.v1.CheckpointService/AddPart",
      [this](const rpc::CallContext&, const v1::AddPartRequest& request,
             const std::function<void(absl::StatusOr<v1::AddPartResponse>)>& respond) {
        {
          MutexLock lock(&mutex_);
          if (hold_parts_) {
            held_parts_.push_back(respond);
            return;
          }
          parts_.push_back(request);
          changed_.NotifyAll();
        }
        v1::AddPartResponse response;
        response.set_committed(true);
        respond(response);
      });
  return registry;
}

void FakeCoordinator::OnSession(const std::shared_ptr<rpc::Stream>& stream, const v1::SessionRequest& message) {
  // The answer leaves before a test can see the request: nothing that the test sends then overtakes a Welcome.
  MutexLock lock(&mutex_);
  handled_ = message.sequence();
  requests_.push_back(message);
  changed_.NotifyAll();
  if (message.has_hello()) return AnswerHello(stream, message.hello());
  v1::SessionResponse answer;
  if (message.has_beat()) {
    answer.mutable_beat();
  } else if (message.has_result() && acknowledge_results_) {
    Acknowledge(message.result(), &answer);
  } else {
    return;
  }
  SendLocked(stream, std::move(answer));
}

void FakeCoordinator::AnswerHello(const std::shared_ptr<rpc::Stream>& stream, const v1::Hello& hello) {
  if (!refusal_.ok()) return stream->Close(refusal_);
  v1::SessionResponse welcome;
  welcome.mutable_welcome()->set_telemetry_credit_bytes(256 << 10);
  for (const auto& [attempt_id, fence] : allowed_) {
    v1::AllowedAttempt* allowed = welcome.mutable_welcome()->add_allowed();
    allowed->set_attempt_id(attempt_id);
    allowed->set_fence(fence);
  }
  SendLocked(stream, std::move(welcome));
  for (const v1::RankResult& result : hello.unacknowledged()) {
    v1::SessionResponse accepted;
    Acknowledge(result, &accepted);
    SendLocked(stream, std::move(accepted));
  }
}

void FakeCoordinator::OnTelemetry(const std::shared_ptr<rpc::Stream>& stream, const v1::ShipTelemetryRequest& request,
                                  size_t bytes) {
  v1::ShipTelemetryResponse answer;
  answer.set_credit_bytes(bytes);
  {
    MutexLock lock(&mutex_);
    if (request.has_log()) {
      std::string& log = logs_[request.log().rank()];
      // What was shipped before is known by its offset.
      if (request.log().offset() >= log.size()) {
        log += request.log().data();
      } else if (request.log().offset() + request.log().data().size() > log.size()) {
        log += request.log().data().substr(log.size() - request.log().offset());
      }
      v1::LogAcknowledged* acknowledged = answer.add_logs();
      acknowledged->set_job_id(request.log().job_id());
      acknowledged->set_stage(request.log().stage());
      acknowledged->set_fence(request.log().fence());
      acknowledged->set_rank(request.log().rank());
      acknowledged->set_offset(request.log().offset() + request.log().data().size());
    }
    for (const v1::MetricPoint& point : request.metrics().points()) points_.push_back(point);
    changed_.NotifyAll();
  }
  stream->Send(answer.SerializeAsString());
}

void FakeCoordinator::SendLocked(const std::shared_ptr<rpc::Stream>& stream, v1::SessionResponse message) {
  message.set_sequence(++sequence_);
  message.set_acknowledged(handled_);
  message.set_coordinator_epoch(epoch_);
  stream->Send(message.SerializeAsString());
}

void FakeCoordinator::Send(v1::SessionResponse message) {
  MutexLock lock(&mutex_);
  ASSERT_NE(session_, nullptr);
  SendLocked(session_, std::move(message));
}

void FakeCoordinator::Assign(uint64_t fence, const std::vector<std::string>& scripts_by_rank) {
  for (size_t rank = 0; rank < scripts_by_rank.size(); ++rank) {
    v1::SessionResponse message;
    v1::Assign* assign = message.mutable_assign();
    assign->set_attempt_id("6161/" + std::to_string(fence));
    assign->set_fence(fence);
    assign->set_world(static_cast<int32_t>(scripts_by_rank.size()));
    assign->set_secret(std::string(32, 's'));
    assign->mutable_spec()->set_job_id("job-1");
    assign->mutable_spec()->set_stage("sft");
    assign->mutable_spec()->set_stage_uid("aa");
    assign->mutable_spec()->set_stage_json(scripts_by_rank[rank]);
    v1::RankSlot* slot = assign->add_ranks();
    slot->set_rank(static_cast<int32_t>(rank));
    slot->mutable_device()->set_kind(v1::DEVICE_KIND_CPU_SLOT);
    slot->mutable_device()->set_index(static_cast<int32_t>(rank));
    Send(std::move(message));
  }
}

bool FakeCoordinator::Wait(const std::function<bool()>& predicate) {
  const absl::Duration end = RealClock()->Monotonic() + absl::Seconds(30);
  MutexLock lock(&mutex_);
  while (!predicate()) {
    const absl::Duration left = end - RealClock()->Monotonic();
    if (left <= absl::ZeroDuration()) return false;
    changed_.WaitFor(&mutex_, left);
  }
  return true;
}

bool FakeCoordinator::WaitFor(const std::function<bool(const v1::SessionRequest&)>& predicate) {
  return Wait([&] { return std::any_of(requests_.begin(), requests_.end(), predicate); });
}

v1::Hello FakeCoordinator::WaitForHello(size_t number) {
  v1::Hello found;
  EXPECT_TRUE(Wait([&] {
    size_t seen = 0;
    for (const v1::SessionRequest& request : requests_) {
      if (!request.has_hello() || ++seen != number) continue;
      found = request.hello();
      return true;
    }
    return false;
  })) << "Hello number "
      << number << " never came";
  return found;
}

bool FakeCoordinator::WaitForBeatAfterHello(size_t number) {
  return Wait([&] {
    size_t hellos = 0;
    for (const v1::SessionRequest& request : requests_) {
      hellos += request.has_hello() ? 1 : 0;
      if (hellos >= number && request.has_beat()) return true;
    }
    return false;
  });
}

v1::RankResult FakeCoordinator::WaitForResult(int32_t rank) {
  v1::RankResult found;
  EXPECT_TRUE(Wait([&] {
    for (const v1::SessionRequest& request : requests_) {
      if (request.has_result() && request.result().rank() == rank) {
        found = request.result();
        return true;
      }
      for (const v1::RankResult& result : request.hello().unacknowledged()) {
        if (result.rank() != rank) continue;
        found = result;
        return true;
      }
    }
    return false;
  })) << "the result of rank "
      << rank << " never came";
  return found;
}

bool FakeCoordinator::WaitForLog(const std::string& text) {
  return Wait([&] {
    return std::any_of(logs_.begin(), logs_.end(),
                       [&](const auto& log) { return log.second.find(text) != std::string::npos; });
  });
}

bool FakeCoordinator::WaitForPoint(const std::string& series) {
  return Wait([&] {
    return std::any_of(points_.begin(), points_.end(), [&](const auto& point) { return point.series() == series; });
  });
}

bool FakeCoordinator::WaitForParts(size_t count) {
  return Wait([&] { return parts_.size() >= count; });
}

std::string FakeCoordinator::log() {
  MutexLock lock(&mutex_);
  std::string all;
  for (const auto& [rank, log] : logs_) all += log;
  return all;
}

size_t FakeCoordinator::parts() {
  MutexLock lock(&mutex_);
  return parts_.size();
}

std::vector<v1::SessionRequest> FakeCoordinator::requests() {
  MutexLock lock(&mutex_);
  return requests_;
}

std::vector<std::string> FakeCoordinator::checkpoint_calls() {
  MutexLock lock(&mutex_);
  return checkpoint_calls_;
}

}  // namespace vlm::worker
