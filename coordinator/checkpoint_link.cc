#include "coordinator/checkpoint_link.h"

#include <utility>

#include "base/crash_point.h"
#include "base/entropy.h"
#include "coordinator/core/row_keys.h"
#include "rpc/token.h"
#include "store/rocksdb_meta_store.h"
#include "telemetry/log.h"

namespace vlm::coordinator {
namespace {

constexpr char kService[] = "/vlm.v1.CheckpointService/";
constexpr char kUserRole[] = "user";
constexpr size_t kCatalogUuidBytes = 16;
// The core names an overdue call again after 30 s; a verification reads a whole step and may take longer.
constexpr absl::Duration kCallDeadline = absl::Seconds(25);
constexpr absl::Duration kVerifyDeadline = absl::Hours(6);

template <typename Response, typename Request>
void Call(rpc::Channel* channel, const char* method, const Request& request, absl::Duration deadline,
          std::function<void(absl::StatusOr<Response>)> done) {
  channel->Call(std::string(kService) + method, request.SerializeAsString(), {.deadline = deadline},
                [done = std::move(done)](absl::StatusOr<std::string> bytes) {
                  Response response;
                  if (!bytes.ok()) {
                    done(bytes.status());
                  } else if (!response.ParseFromString(*bytes)) {
                    done(absl::InternalError("the checkpoint service's answer does not parse"));
                  } else {
                    done(std::move(response));
                  }
                });
}

// Puts the check of the calling worker in front of a registered method. People are not bound to a worker.
template <typename Request>
void CheckCaller(const std::string& method, DecisionLoop* loop, rpc::ServiceRegistry* registry) {
  rpc::UnaryHandler& handler = registry->unary.at(method);
  handler = [loop, inner = std::move(handler)](const rpc::CallContext& context, std::string bytes,
                                               rpc::Respond respond) {
    const auto role = context.metadata.find(rpc::kRoleKey);
    if (role != context.metadata.end() && role->second == kUserRole) return inner(context, std::move(bytes), respond);
    Request request;
    if (!request.ParseFromString(bytes)) return respond(absl::InvalidArgumentError("request does not parse"));
    const absl::StatusOr<std::string> node = rpc::NamedWorker(context, "a call that writes a step");
    if (!node.ok()) return respond(node.status());
    const auto allowed = std::make_shared<absl::Status>();
    const absl::Status queued =
        loop->Read([allowed, uid = request.stage_uid(), fence = request.fence(),
                    node_id = *node](const Coordinator& core) { *allowed = core.CheckWriter(uid, fence, node_id); },
                   [allowed, inner, context, bytes = std::move(bytes), respond] {
                     if (allowed->ok()) {
                       inner(context, bytes, respond);
                     } else {
                       respond(*allowed);
                     }
                   });
    if (!queued.ok()) respond(queued);
  };
}

}  // namespace

CheckpointLink::CheckpointLink(CheckpointLinkOptions options) : options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<CheckpointLink>> CheckpointLink::Create(CheckpointLinkOptions options, FileSystem* files,
                                                                       const Clock* clock) {
  std::unique_ptr<CheckpointLink> link(new CheckpointLink(std::move(options)));
  VLM_ASSIGN_OR_RETURN(link->store_, store::OpenRocksDbMetaStore(
                                         {.path = link->options_.database, .families = checkpoint::CatalogFamilies()}));
  checkpoint::CheckpointServiceOptions service;
  service.allowed_roots = link->options_.allowed_roots;
  service.new_catalog_uuid = RandomBytes(kCatalogUuidBytes);
  service.on_store_failure = link->options_.on_store_failure;
  service.on_event = [tell = link->options_.tell](const checkpoint::CatalogEvent& event) {
    if (event.kind == checkpoint::CatalogEvent::Kind::kCommitted) {
      tell(StepCommitted{event.step.stage_uid, event.step.fence, event.step.step});
    } else if (event.kind == checkpoint::CatalogEvent::Kind::kNotDescribed) {
      telemetry::Log(telemetry::LogLevel::kWarning, "COMMITTED.json is not written; the next start tries again",
                     {{"attempt", AttemptId(event.step.stage_uid, event.step.fence)},
                      {"step", std::to_string(event.step.step)},
                      {"reason", event.reason}});
    }
  };
  const checkpoint::CheckpointServiceDeps deps{.store = link->store_.get(),
                                               .files = files,
                                               .clock = clock,
                                               .actor = &link->actor_,
                                               .disk = &link->disk_,
                                               .verifier = &link->verifier_,
                                               .auditor = &link->auditor_,
                                               .remover = &link->remover_};
  VLM_ASSIGN_OR_RETURN(link->service_, checkpoint::CheckpointService::Create(std::move(service), deps));
  rpc::ServiceRegistry registry;
  link->service_->Register(&registry);
  link->transport_ = std::make_unique<rpc::MemoryTransport>(&link->transport_thread_);
  link->transport_->Serve(std::move(registry));
  link->channel_ = link->transport_->Connect("coordinator");
  return link;
}

CheckpointLink::~CheckpointLink() { Stop(); }

void CheckpointLink::Register(DecisionLoop* loop, rpc::ServiceRegistry* registry) {
  service_->Register(registry);
  for (const char* own : {"OpenAttempt", "CommitArtifact"}) registry->unary.erase(std::string(kService) + own);
  CheckCaller<v1::BeginStepRequest>(std::string(kService) + "BeginStep", loop, registry);
  CheckCaller<v1::AddPartRequest>(std::string(kService) + "AddPart", loop, registry);
  CheckCaller<v1::DeleteStepRequest>(std::string(kService) + "DeleteStep", loop, registry);
}

void CheckpointLink::Stop() {
  transport_thread_.Stop();
  actor_.Stop();
  disk_.Stop();
  remover_.Stop();
  verifier_.Stop();
  auditor_.Stop();
}

void CheckpointLink::Perform(const OpenAttempt& effect) {
  const v1::OpenAttemptRequest& request = effect.request;
  Call<v1::OpenAttemptResponse>(channel_.get(), "OpenAttempt", request, kCallDeadline,
                                [tell = options_.tell, uid = request.stage_uid(),
                                 fence = request.fence()](absl::StatusOr<v1::OpenAttemptResponse> response) {
                                  AttemptOpened answer{uid, fence, response.status(), {}};
                                  if (response.ok()) answer.response = *std::move(response);
                                  tell(std::move(answer));
                                });
}

void CheckpointLink::Perform(const CommitArtifact& effect) {
  const v1::CommitArtifactRequest& request = effect.request;
  CrashPoint("publish.asked");
  Call<v1::CommitArtifactResponse>(channel_.get(), "CommitArtifact", request, kCallDeadline,
                                   [tell = options_.tell, uid = request.stage_uid(),
                                    fence = request.fence()](absl::StatusOr<v1::CommitArtifactResponse> response) {
                                     CrashPoint("publish.answered");
                                     ArtifactCommitted answer{uid, fence, response.status(), {}};
                                     if (response.ok()) answer.response = *std::move(response);
                                     tell(std::move(answer));
                                   });
}

void CheckpointLink::Perform(const VerifyStep& effect) {
  {
    MutexLock lock(&mutex_);
    if (!verifying_.insert(effect.for_stage).second) return;  // its answer is on the way
  }
  v1::VerifyStepRequest request = effect.request;
  request.set_before_reuse(true);
  Call<v1::VerifyStepResponse>(channel_.get(), "VerifyStep", request, kVerifyDeadline,
                               [this, tell = options_.tell, effect](absl::StatusOr<v1::VerifyStepResponse> response) {
                                 {
                                   MutexLock lock(&mutex_);
                                   verifying_.erase(effect.for_stage);
                                 }
                                 StepVerified answer{effect.for_stage, effect.request, response.status(), {}};
                                 if (response.ok()) answer.response = *std::move(response);
                                 tell(std::move(answer));
                               });
}

}  // namespace vlm::coordinator
