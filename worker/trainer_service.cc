#include "worker/trainer_service.h"

#include <type_traits>
#include <utility>

#include "absl/strings/numbers.h"
#include "rpc/retry.h"
#include "rpc/token.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/data.pb.h"

namespace vlm::worker {
namespace {

constexpr char kData[] = "/vlm.v1.DataService/";
constexpr char kCheckpoint[] = "/vlm.v1.CheckpointService/";

std::string Hex(const std::string& bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    text += kDigits[static_cast<unsigned char>(byte) >> 4];
    text += kDigits[static_cast<unsigned char>(byte) & 15];
  }
  return text;
}

// Requests that name the attempt's fence; the others read only.
template <typename Request>
concept HasFence = requires(const Request& request) { request.fence(); };
template <typename Request>
concept HasRank = requires(const Request& request) { request.rank(); };

bool IsSettled(const absl::Status& status) {
  return status.ok() || absl::IsAlreadyExists(status) || absl::IsFailedPrecondition(status) ||
         absl::IsNotFound(status) || absl::IsPermissionDenied(status);
}

template <typename Request>
v1::HeldShard ShardOf(const Request& request) {
  v1::HeldShard shard;
  shard.set_stage_uid(request.stage_uid());
  shard.set_fence(request.fence());
  shard.set_shard(request.shard());
  shard.set_lease_id(request.lease_id());
  return shard;
}

std::vector<v1::HeldShard> ShardsOf(const v1::LeaseShardsRequest& request, const v1::LeaseShardsResponse& response) {
  std::vector<v1::HeldShard> shards;
  for (const v1::LeaseShardsResponse::Lease& lease : response.leases()) {
    v1::HeldShard shard;
    shard.set_stage_uid(request.stage_uid());
    shard.set_fence(request.fence());
    shard.set_shard(lease.shard());
    shard.set_lease_id(lease.lease_id());
    shards.push_back(std::move(shard));
  }
  return shards;
}

}  // namespace

// Brings one Attach stream to the executor. `rank` is known after the hello.
class TrainerService::AttachReceiver final : public rpc::StreamReceiver,
                                             public std::enable_shared_from_this<AttachReceiver> {
 public:
  AttachReceiver(std::shared_ptr<Executor> executor, std::shared_ptr<TrainerService*> service)
      : executor_(std::move(executor)), service_(std::move(service)) {}

  void OnMessage(std::string bytes) override {
    executor_->Post([self = shared_from_this(), bytes = std::move(bytes)] {
      if (*self->service_ != nullptr) (*self->service_)->OnAttachMessage(self.get(), bytes);
    });
  }
  void OnClosed(absl::Status) override {
    executor_->Post([self = shared_from_this()] {
      if (*self->service_ != nullptr) (*self->service_)->OnAttachClosed(self.get());
      self->stream = nullptr;
    });
  }

  // Of the executor.
  std::shared_ptr<rpc::Stream> stream;
  RankKey rank;           // by its token
  bool admitted = false;  // its token is good
  bool greeted = false;   // its hello was too
  uint64_t number = 0;

 private:
  const std::shared_ptr<Executor> executor_;
  const std::shared_ptr<TrainerService*> service_;
};

TrainerService::TrainerService(std::shared_ptr<Executor> executor, CallRelay* relay, Callbacks callbacks)
    : executor_(std::move(executor)),
      relay_(relay),
      callbacks_(std::move(callbacks)),
      self_(std::make_shared<TrainerService*>(this)) {}

TrainerService::~TrainerService() { *self_ = nullptr; }

void TrainerService::Expect(const RankKey& rank, std::string token, std::string stage_uid, bool pool) {
  ranks_[rank] = {
      .token = std::move(token), .stage_uid = std::move(stage_uid), .pool = pool, .stream = nullptr, .attach = 0};
}

void TrainerService::Forget(const RankKey& rank) {
  const auto it = ranks_.find(rank);
  if (it == ranks_.end()) return;
  if (it->second.stream != nullptr) it->second.stream->Close(absl::OkStatus());
  ranks_.erase(it);
}

void TrainerService::Send(const RankKey& rank, const v1::AttachResponse& message) {
  const auto it = ranks_.find(rank);
  if (it != ranks_.end() && it->second.stream != nullptr) it->second.stream->Send(message.SerializeAsString());
}

absl::StatusOr<RankKey> TrainerService::Identify(const rpc::Metadata& metadata) const {
  const auto sent = metadata.find(rpc::kAttemptTokenKey);
  if (sent == metadata.end()) return absl::UnauthenticatedError("no vlm-attempt-token was sent");
  const RankKey* found = nullptr;
  for (const auto& [key, rank] : ranks_) {
    if (rpc::EqualSecrets(rank.token, sent->second)) found = &key;
  }
  if (found == nullptr) return absl::UnauthenticatedError("the attempt token is of no rank of this worker");
  return *found;
}

void TrainerService::OnAttach(const rpc::Metadata& metadata, std::shared_ptr<rpc::Stream> stream,
                              const std::shared_ptr<AttachReceiver>& receiver) {
  absl::StatusOr<RankKey> rank = Identify(metadata);
  if (!rank.ok()) {
    stream->Close(rank.status());
    return;
  }
  receiver->stream = std::move(stream);
  receiver->rank = *std::move(rank);
  receiver->admitted = true;
  receiver->number = ++attaches_;
}

void TrainerService::OnAttachMessage(AttachReceiver* receiver, const std::string& bytes) {
  if (!receiver->admitted) return;  // refused; its stream is closing
  const auto it = ranks_.find(receiver->rank);
  if (it == ranks_.end()) return;
  v1::AttachRequest message;
  if (!message.ParseFromString(bytes)) {
    receiver->stream->Close(absl::InvalidArgumentError("a message of the trainer does not parse"));
    return;
  }
  if (!receiver->greeted) {
    const bool good = message.has_hello() && message.hello().attempt_id() == receiver->rank.attempt_id &&
                      message.hello().rank() == receiver->rank.rank;
    if (!good) {
      receiver->admitted = false;
      receiver->stream->Close(
          absl::PermissionDeniedError("the first message must be the hello of " + receiver->rank.ToString()));
      return;
    }
    receiver->greeted = true;
    it->second.stream = receiver->stream;
    it->second.attach = receiver->number;
  }
  callbacks_.received(receiver->rank, std::move(message));
}

void TrainerService::OnAttachClosed(AttachReceiver* receiver) {
  const auto it = ranks_.find(receiver->rank);
  if (it == ranks_.end() || !receiver->greeted || it->second.attach != receiver->number) return;
  it->second.stream = nullptr;
  callbacks_.detached(receiver->rank);
}

template <typename Request>
absl::Status TrainerService::Authorize(const RankKey& rank, const Request& request) const {
  const auto it = ranks_.find(rank);
  if (it == ranks_.end()) return absl::UnauthenticatedError("the rank has ended");
  if (request.stage_uid() != it->second.stage_uid) {
    return absl::PermissionDeniedError("the call is about another stage than the rank's own");
  }
  if constexpr (HasFence<Request>) {
    if (request.fence() != rank.fence) {
      return absl::PermissionDeniedError("the call names fence " + std::to_string(request.fence()) +
                                         ", the rank's attempt has " + std::to_string(rank.fence));
    }
  }
  if constexpr (HasRank<Request>) {
    // A pool's finish task, whoever leased it, writes a step of one part: part 0.
    const bool part_of_finish = std::is_same_v<Request, v1::AddPartRequest> && it->second.pool;
    if (request.rank() != (part_of_finish ? 0 : rank.rank)) {
      return absl::PermissionDeniedError("the call names another rank");
    }
  }
  return absl::OkStatus();
}

absl::Duration TrainerService::AwayLimitOf(const rpc::Metadata& metadata) {
  const auto found = metadata.find(rpc::kAwayMillisecondsKey);
  int64_t milliseconds = 0;
  const bool given = found != metadata.end() && absl::SimpleAtoi(found->second, &milliseconds) && milliseconds >= 0;
  return given ? absl::Milliseconds(milliseconds) : absl::InfiniteDuration();
}

template <typename Request, typename Response>
void TrainerService::AddCall(const std::string& method, rpc::ServiceRegistry* registry) {
  using Respond = std::function<void(absl::StatusOr<Response>)>;
  registry->AddUnary<Request, Response>(method, [self = self_, executor = executor_, method](
                                                    const rpc::CallContext& context, Request request, Respond respond) {
    executor->Post([self, method, metadata = context.metadata, deadline = context.deadline,
                    request = std::move(request), respond = std::move(respond)] {
      TrainerService* const service = *self;
      if (service == nullptr) return;
      const absl::StatusOr<RankKey> rank = service->Identify(metadata);
      const absl::Status allowed = rank.ok() ? service->Authorize(*rank, request) : rank.status();
      if (!allowed.ok()) {
        respond(allowed);
        return;
      }
      const auto done = [self, rank = *rank, request, respond](absl::StatusOr<std::string> bytes) {
        Response response;
        if (bytes.ok() && !response.ParseFromString(*bytes)) {
          bytes = absl::InternalError("answer of the coordinator does not parse");
        }
        if (*self != nullptr) {
          if constexpr (std::is_same_v<Request, v1::LeaseShardsRequest>) {
            if (bytes.ok()) (*self)->callbacks_.leased(rank, ShardsOf(request, response));
          }
          // Committed, lost to another lease, not ours, or of an attempt that is over: the rank is done with it.
          if constexpr (std::is_same_v<Request, v1::CommitShardRequest> ||
                        std::is_same_v<Request, v1::FailShardRequest>) {
            if (IsSettled(bytes.status())) (*self)->callbacks_.released(ShardOf(request));
          }
        }
        if (bytes.ok()) {
          respond(std::move(response));
        } else {
          respond(bytes.status());
        }
      };
      if constexpr (std::is_same_v<Request, v1::AddPartRequest>) {
        const std::string name = "part-" + Hex(request.stage_uid()) + "-f" + std::to_string(request.fence()) + "-s" +
                                 std::to_string(request.step()) + "-r" + std::to_string(request.rank());
        service->relay_->Deliver({.name = name, .method = method, .request = request.SerializeAsString()}, deadline,
                                 done);
      } else {
        service->relay_->Forward(method, request.SerializeAsString(), deadline, done, AwayLimitOf(metadata));
      }
    });
  });
}

rpc::ServiceRegistry TrainerService::Registry() {
  rpc::ServiceRegistry registry;
  registry.streams["/vlm.v1.TrainerService/Attach"] =
      [self = self_, executor = executor_](
          const rpc::CallContext& context,
          std::shared_ptr<rpc::Stream> stream) -> std::shared_ptr<rpc::StreamReceiver> {
    auto receiver = std::make_shared<AttachReceiver>(executor, self);
    executor->Post([self, receiver, metadata = context.metadata, stream = std::move(stream)]() mutable {
      if (*self != nullptr) (*self)->OnAttach(metadata, std::move(stream), receiver);
    });
    return receiver;
  };
  AddCall<v1::LeaseShardsRequest, v1::LeaseShardsResponse>(std::string(kData) + "LeaseShards", &registry);
  AddCall<v1::CommitShardRequest, v1::CommitShardResponse>(std::string(kData) + "CommitShard", &registry);
  AddCall<v1::FailShardRequest, v1::FailShardResponse>(std::string(kData) + "FailShard", &registry);
  AddCall<v1::ListShardsRequest, v1::ListShardsResponse>(std::string(kData) + "ListShards", &registry);
  AddCall<v1::BeginStepRequest, v1::BeginStepResponse>(std::string(kCheckpoint) + "BeginStep", &registry);
  AddCall<v1::AddPartRequest, v1::AddPartResponse>(std::string(kCheckpoint) + "AddPart", &registry);
  // Fence 0 would delete a finished step: only a rank's own fence passes, which gives up its attempt's step.
  AddCall<v1::DeleteStepRequest, v1::DeleteStepResponse>(std::string(kCheckpoint) + "DeleteStep", &registry);
  AddCall<v1::GetStepRequest, v1::GetStepResponse>(std::string(kCheckpoint) + "GetStep", &registry);
  AddCall<v1::GetLatestRequest, v1::GetLatestResponse>(std::string(kCheckpoint) + "GetLatest", &registry);
  // How a rank that cannot read the step it resumes from tells of it: the service looks for itself.
  AddCall<v1::VerifyStepRequest, v1::VerifyStepResponse>(std::string(kCheckpoint) + "VerifyStep", &registry);
  return registry;
}

}  // namespace vlm::worker
