#include "checkpoint/service/checkpoint_service.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/crash_point.h"
#include "checkpoint/service/effect_runner.h"

namespace vlm::checkpoint {

// Lives on the actor's executor; effects run on the others and post their results back.
class CheckpointService::Actor : public std::enable_shared_from_this<Actor> {
 public:
  Actor(CheckpointServiceOptions options, const CheckpointServiceDeps& deps, std::string catalog_uuid)
      : options_(std::move(options)),
        deps_(deps),
        runner_(deps.files, {options_.allowed_roots, std::move(catalog_uuid)}) {}

  absl::Status Load() {
    for (const std::string& family : CatalogFamilies()) {
      if (family == kMetaFamily) continue;
      absl::Status parsed;
      VLM_RETURN_IF_ERROR(deps_.store->Scan(family, "", [&](std::string_view key, std::string_view value) {
        parsed = core_.AddRow(family, key, value);
        return parsed.ok();
      }));
      VLM_RETURN_IF_ERROR(parsed);
    }
    VLM_ASSIGN_OR_RETURN(Outputs outputs, core_.Start(deps_.clock->Wall()));
    deps_.actor->Post(
        [self = shared_from_this(), outputs = std::move(outputs)]() mutable { self->Perform(std::move(outputs)); });
    return absl::OkStatus();
  }

  using Answer = std::function<void(absl::StatusOr<Response>)>;
  void Call(Request request, Answer answer) {
    deps_.actor->Post([self = shared_from_this(), request = std::move(request), answer = std::move(answer)]() mutable {
      const uint64_t call = self->next_call_++;
      self->answers_[call] = std::move(answer);
      self->Perform(self->core_.Handle(self->deps_.clock->Wall(), call, request));
    });
  }

 private:
  // Durable first, then everything that depends on it.
  void Perform(Outputs outputs) {
    if (failed_) return;
    if (!outputs.mutations.empty()) {
      const absl::Status committed = deps_.store->Commit(outputs.mutations, store::Durability::kSynced);
      if (!committed.ok()) {
        failed_ = true;  // nothing more leaves a process whose memory is ahead of the disk
        options_.on_store_failure(committed);
        return;
      }
    }
    if (CommitsAStep(outputs)) CrashPoint("commit.stored");
    if (options_.on_event) {
      for (const CatalogEvent& event : outputs.events) options_.on_event(event);
    }
    for (Effect& effect : outputs.effects) StartEffect(std::move(effect));
    for (Reply& reply : outputs.replies) {
      const auto answer = answers_.extract(reply.call);
      VLM_CHECK(!answer.empty(), "a call was answered twice");
      answer.mapped()(std::move(reply.response));
    }
  }

  static bool CommitsAStep(const Outputs& outputs) {
    return std::any_of(outputs.events.begin(), outputs.events.end(),
                       [](const CatalogEvent& event) { return event.kind == CatalogEvent::Kind::kCommitted; });
  }

  Executor* ExecutorOf(const Effect& effect) const {
    if (effect.kind != Effect::Kind::kVerifyFiles) return deps_.disk;
    return effect.first || deps_.auditor == nullptr ? deps_.verifier : deps_.auditor;
  }

  void StartEffect(Effect effect) {
    Executor* const executor = ExecutorOf(effect);
    const absl::Duration delay = effect.delay;
    executor->PostAfter(delay, [self = shared_from_this(), effect = std::move(effect)] {
      // By way of `disk`: behind whatever is still to be made in the folder. After the removal nothing is made in it,
      // since no path is used twice.
      if (effect.kind == Effect::Kind::kRemoveFolder && self->deps_.remover != nullptr) {
        self->ActOnRemover(effect);
      } else {
        self->Act(effect);
      }
    });
  }

  void Act(const Effect& effect) {
    const bool commits = effect.kind == Effect::Kind::kCheckFiles;
    if (commits) CrashPoint("commit.parts");
    EffectResult result = runner_.Run(effect);
    if (commits) CrashPoint("commit.checked");
    // Without space: what is being removed may give it.
    if (effect.kind == Effect::Kind::kMakeFolder && absl::IsResourceExhausted(result.status) &&
        deps_.remover != nullptr) {
      return ActOnRemover(effect);
    }
    Finish(std::move(result));
  }

  void ActOnRemover(const Effect& effect) {
    deps_.remover->Post([self = shared_from_this(), effect] { self->Finish(self->runner_.Run(effect)); });
  }

  void Finish(EffectResult result) {
    deps_.actor->Post([self = shared_from_this(), result = std::move(result)] {
      self->Perform(self->core_.Handle(self->deps_.clock->Wall(), result));
    });
  }

  const CheckpointServiceOptions options_;
  const CheckpointServiceDeps deps_;
  const EffectRunner runner_;
  CheckpointCore core_;
  std::map<uint64_t, Answer> answers_;
  uint64_t next_call_ = 1;
  bool failed_ = false;
};

namespace {

// The identity the store carries, made on its first opening.
absl::StatusOr<std::string> CatalogUuid(store::MetaStore* store, const std::string& new_uuid) {
  VLM_ASSIGN_OR_RETURN(const std::optional<std::string> format, store->Get(kMetaFamily, kFormatKey));
  VLM_ASSIGN_OR_RETURN(const std::optional<std::string> uuid, store->Get(kMetaFamily, kUuidKey));
  if (!format.has_value() && !uuid.has_value()) {
    if (new_uuid.size() != 16) return absl::InvalidArgumentError("new_catalog_uuid must have 16 random bytes");
    VLM_RETURN_IF_ERROR(
        store->Commit({{std::string(kMetaFamily), std::string(kUuidKey), new_uuid},
                       {std::string(kMetaFamily), std::string(kFormatKey), absl::StrCat(kCatalogFormat)}},
                      store::Durability::kSynced));
    return new_uuid;
  }
  int number = 0;
  if (!format.has_value() || !uuid.has_value() || !absl::SimpleAtoi(*format, &number)) {
    return absl::DataLossError("catalog's meta rows are damaged: format or catalog_uuid");
  }
  if (number > kCatalogFormat) {
    return absl::FailedPreconditionError(absl::StrCat("catalog was written by a newer program: format ", number,
                                                      ", this program knows up to ", kCatalogFormat));
  }
  return *uuid;
}

}  // namespace

CheckpointService::CheckpointService(std::shared_ptr<Actor> actor) : actor_(std::move(actor)) {}
CheckpointService::~CheckpointService() = default;

absl::StatusOr<std::unique_ptr<CheckpointService>> CheckpointService::Create(CheckpointServiceOptions options,
                                                                             const CheckpointServiceDeps& deps) {
  if (options.allowed_roots.empty()) {
    return absl::InvalidArgumentError("checkpoint service needs at least one allowed artifacts root");
  }
  VLM_CHECK(options.on_store_failure != nullptr, "on_store_failure must be set");
  VLM_ASSIGN_OR_RETURN(const std::string uuid, CatalogUuid(deps.store, options.new_catalog_uuid));
  auto actor = std::make_shared<Actor>(std::move(options), deps, absl::BytesToHexString(uuid));
  VLM_RETURN_IF_ERROR(actor->Load());
  return std::unique_ptr<CheckpointService>(new CheckpointService(std::move(actor)));
}

void CheckpointService::Register(rpc::ServiceRegistry* registry) {
  const auto add = [&]<typename TypedRequest, typename TypedResponse>(const char* name) {
    registry->AddUnary<TypedRequest, TypedResponse>(
        absl::StrCat("/vlm.v1.CheckpointService/", name),
        [actor = actor_](const rpc::CallContext&, TypedRequest request,
                         std::function<void(absl::StatusOr<TypedResponse>)> respond) {
          actor->Call(std::move(request), [respond = std::move(respond)](absl::StatusOr<Response> response) {
            if (response.ok()) {
              respond(std::get<TypedResponse>(*std::move(response)));
            } else {
              respond(response.status());
            }
          });
        });
  };
  add.operator()<v1::OpenAttemptRequest, v1::OpenAttemptResponse>("OpenAttempt");
  add.operator()<v1::BeginStepRequest, v1::BeginStepResponse>("BeginStep");
  add.operator()<v1::AddPartRequest, v1::AddPartResponse>("AddPart");
  add.operator()<v1::CommitArtifactRequest, v1::CommitArtifactResponse>("CommitArtifact");
  add.operator()<v1::GetStepRequest, v1::GetStepResponse>("GetStep");
  add.operator()<v1::ListStepsRequest, v1::ListStepsResponse>("ListSteps");
  add.operator()<v1::GetLatestRequest, v1::GetLatestResponse>("GetLatest");
  add.operator()<v1::DeleteStepRequest, v1::DeleteStepResponse>("DeleteStep");
  add.operator()<v1::VerifyStepRequest, v1::VerifyStepResponse>("VerifyStep");
}

}  // namespace vlm::checkpoint
