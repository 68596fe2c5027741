#include "checkpoint/client/checkpoint_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/retry.h"
#include "vlm/v1/checkpoint.pb.h"

namespace vlm::checkpoint {
namespace {

// The methods' names and types in one place.
template <typename Response, typename Request>
absl::StatusOr<Response> CallService(rpc::Channel* channel, const rpc::CallOptions& options, const char* method,
                                     const Request& request) {
  return rpc::CallAndWait<Response>(channel, absl::StrCat("/vlm.v1.CheckpointService/", method), request, options);
}

rpc::CallOptions WithAwayLimit(rpc::CallOptions options, absl::Duration away_max) {
  if (away_max == absl::InfiniteDuration()) return options;
  options.metadata[rpc::kAwayMillisecondsKey] = absl::StrCat(absl::ToInt64Milliseconds(away_max));
  return options;
}

absl::Time FromTimestamp(const google::protobuf::Timestamp& stamp) {
  return absl::FromUnixSeconds(stamp.seconds()) + absl::Nanoseconds(stamp.nanos());
}

StepStatus ToStatus(v1::StepState state) {
  switch (state) {
    case v1::STEP_STATE_WRITING:
      return StepStatus::kWriting;
    case v1::STEP_STATE_COMPLETE:
      return StepStatus::kComplete;
    case v1::STEP_STATE_DAMAGED:
      return StepStatus::kDamaged;
    case v1::STEP_STATE_DELETING:
      return StepStatus::kDeleting;
    default:
      return StepStatus::kUnknown;  // of a newer service
  }
}

StepInfo ToInfo(const v1::Step& step) {
  StepInfo info;
  info.stage_uid = step.stage_uid();
  info.job_id = step.job_id();
  info.stage = step.stage();
  info.step = step.step();
  info.fence = step.fence();
  info.status = ToStatus(step.state());
  info.folder = step.folder();
  info.bytes = step.bytes();
  info.world = step.world();
  info.parent_step = step.parent_step();
  info.final = step.final();
  for (const v1::StepFile& file : step.files()) info.files.push_back({file.name(), file.bytes(), file.digest()});
  info.holds.assign(step.holds().begin(), step.holds().end());
  if (step.has_committed_at()) info.committed_at = FromTimestamp(step.committed_at());
  if (step.has_verified_at()) info.verified_at = FromTimestamp(step.verified_at());
  info.damage = step.damage();
  return info;
}

absl::StatusOr<std::vector<StepInfo>> List(rpc::Channel* channel, const rpc::CallOptions& options,
                                           const v1::ListStepsRequest& request) {
  VLM_ASSIGN_OR_RETURN(const v1::ListStepsResponse response,
                       CallService<v1::ListStepsResponse>(channel, options, "ListSteps", request));
  std::vector<StepInfo> steps;
  for (const v1::Step& step : response.steps()) steps.push_back(ToInfo(step));
  return steps;
}

}  // namespace

absl::StatusOr<OpenedAttempt> CheckpointClient::OpenAttempt(const AttemptToOpen& attempt) const {
  v1::OpenAttemptRequest request;
  request.set_stage_uid(attempt.stage_uid);
  request.set_fence(attempt.fence);
  request.mutable_stage()->set_job_id(attempt.job_id);
  request.mutable_stage()->set_stage(attempt.stage);
  request.mutable_stage()->set_root(attempt.root);
  request.mutable_stage()->set_keep_last(attempt.keep_last);
  request.mutable_stage()->set_keep_every(attempt.keep_every);
  VLM_ASSIGN_OR_RETURN(const v1::OpenAttemptResponse response,
                       CallService<v1::OpenAttemptResponse>(channel_, options_, "OpenAttempt", request));
  return OpenedAttempt{response.step(), response.folder(), response.cursor(), response.final()};
}

absl::StatusOr<std::string> CheckpointClient::BeginStep(const StepToBegin& step, absl::Duration away_max) const {
  v1::BeginStepRequest request;
  request.set_stage_uid(step.stage_uid);
  request.set_fence(step.fence);
  request.set_step(step.step);
  request.set_world(step.world);
  request.set_parent_step(step.parent_step);
  request.set_cursor(step.cursor);
  request.set_final(step.final);
  request.set_reserve_bytes(step.reserve_bytes);
  VLM_ASSIGN_OR_RETURN(
      const v1::BeginStepResponse response,
      CallService<v1::BeginStepResponse>(channel_, WithAwayLimit(options_, away_max), "BeginStep", request));
  return response.folder();
}

absl::StatusOr<bool> CheckpointClient::AddPart(const PartToAdd& part) const {
  v1::AddPartRequest request;
  request.set_stage_uid(part.stage_uid);
  request.set_fence(part.fence);
  request.set_step(part.step);
  request.set_rank(part.rank);
  for (const FileClaim& claim : part.files) {
    v1::StepFile& file = *request.add_files();
    file.set_name(claim.name);
    file.set_bytes(claim.bytes);
    file.set_digest(claim.digest);
  }
  VLM_ASSIGN_OR_RETURN(const v1::AddPartResponse response,
                       CallService<v1::AddPartResponse>(channel_, options_, "AddPart", request));
  return response.committed();
}

absl::StatusOr<Artifact> CheckpointClient::CommitArtifact(const std::string& stage_uid, uint64_t fence,
                                                          const std::string& kind) const {
  v1::CommitArtifactRequest request;
  request.set_stage_uid(stage_uid);
  request.set_fence(fence);
  request.set_kind(kind);
  VLM_ASSIGN_OR_RETURN(const v1::CommitArtifactResponse response,
                       CallService<v1::CommitArtifactResponse>(channel_, options_, "CommitArtifact", request));
  return Artifact{response.digest(), response.folder(), response.bytes(), response.step()};
}

absl::StatusOr<StepInfo> CheckpointClient::GetStep(const std::string& stage_uid, uint64_t step) const {
  v1::GetStepRequest request;
  request.set_stage_uid(stage_uid);
  request.set_step(step);
  VLM_ASSIGN_OR_RETURN(const v1::GetStepResponse response,
                       CallService<v1::GetStepResponse>(channel_, options_, "GetStep", request));
  return ToInfo(response.step());
}

absl::StatusOr<StepInfo> CheckpointClient::GetLatest(const std::string& stage_uid) const {
  v1::GetLatestRequest request;
  request.set_stage_uid(stage_uid);
  VLM_ASSIGN_OR_RETURN(const v1::GetLatestResponse response,
                       CallService<v1::GetLatestResponse>(channel_, options_, "GetLatest", request));
  return ToInfo(response.step());
}

absl::StatusOr<std::vector<StepInfo>> CheckpointClient::ListStepsOfJob(const std::string& job_id) const {
  v1::ListStepsRequest request;
  request.set_job_id(job_id);
  return List(channel_, options_, request);
}

absl::StatusOr<std::vector<StepInfo>> CheckpointClient::ListStepsOfStage(const std::string& stage_uid) const {
  v1::ListStepsRequest request;
  request.set_stage_uid(stage_uid);
  return List(channel_, options_, request);
}

absl::Status CheckpointClient::DeleteStep(const std::string& stage_uid, uint64_t step) const {
  return AbortStep(stage_uid, step, /*fence=*/0);
}

absl::Status CheckpointClient::AbortStep(const std::string& stage_uid, uint64_t step, uint64_t fence,
                                         absl::Duration away_max) const {
  v1::DeleteStepRequest request;
  request.set_stage_uid(stage_uid);
  request.set_step(step);
  request.set_fence(fence);
  return CallService<v1::DeleteStepResponse>(channel_, WithAwayLimit(options_, away_max), "DeleteStep", request)
      .status();
}

absl::StatusOr<VerifiedStep> CheckpointClient::VerifyStep(const std::string& stage_uid, uint64_t step,
                                                          absl::Duration deadline, bool before_others) const {
  v1::VerifyStepRequest request;
  request.set_stage_uid(stage_uid);
  request.set_step(step);
  request.set_before_reuse(before_others);
  rpc::CallOptions options = options_;
  options.deadline = deadline;
  VLM_ASSIGN_OR_RETURN(const v1::VerifyStepResponse response,
                       CallService<v1::VerifyStepResponse>(channel_, options, "VerifyStep", request));
  VerifiedStep verified{.damages = {}, .bytes = response.bytes()};
  for (const auto& damage : response.damages()) {
    verified.damages.push_back({damage.file(), damage.chunk(), damage.detail()});
  }
  return verified;
}

}  // namespace vlm::checkpoint
