#include "cli/service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/retry.h"

namespace vlm::cli {
namespace {

constexpr int kJobsPageSize = 1000;
constexpr int kPagesMax = 1000;  // a service that never ends its list is not followed for ever

// A refusal that names no delay (a full disk, say) is an answer: a person must see it.
bool IsAway(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || rpc::RetryDelayOf(status).has_value();
}

}  // namespace

Service::Service(Resolve resolve, Connect connect, const Clock* clock, const Interrupt* interrupt,
                 std::function<void(const absl::Status&)> on_wait, ServiceOptions options)
    : resolve_(std::move(resolve)),
      connect_(std::move(connect)),
      clock_(clock),
      interrupt_(interrupt),
      on_wait_(std::move(on_wait)),
      options_(options) {}

absl::StatusOr<rpc::Channel*> Service::channel() {
  absl::StatusOr<Endpoint> now = resolve_();
  if (!now.ok()) {
    // A coordinator that is just starting may have removed its file: the last address is as good as any.
    if (endpoint_ && IsAway(now.status())) return channels_.back().get();
    return now.status();
  }
  if (endpoint_ != *now) {
    VLM_ASSIGN_OR_RETURN(std::unique_ptr<rpc::Channel> channel, connect_(*now));
    channels_.push_back(std::move(channel));
    endpoint_ = *std::move(now);
  }
  return channels_.back().get();
}

absl::StatusOr<std::string> Service::CallOnce(std::string_view method, const std::string& request,
                                              absl::Duration deadline) {
  VLM_ASSIGN_OR_RETURN(rpc::Channel* const to, channel());
  rpc::CallOptions options;
  options.deadline = deadline;
  absl::StatusOr<std::string> answer = rpc::CallAndWait(to, method, request, options);
  if (!answer.ok() && (absl::IsUnavailable(answer.status()) || absl::IsDeadlineExceeded(answer.status()))) {
    return Annotate(answer.status(), absl::StrCat("the coordinator at ", endpoint_->address, " does not answer"));
  }
  return answer;
}

absl::StatusOr<std::string> Service::CallBytes(std::string_view method, const std::string& request,
                                               absl::Duration patience, absl::Duration deadline) {
  const absl::Duration give_up_at = clock_->Monotonic() + patience;
  absl::Duration backoff = options_.backoff_min;
  for (bool first = true;; first = false) {
    absl::StatusOr<std::string> answer = CallOnce(method, request, deadline);
    if (answer.ok() || !IsAway(answer.status()) || clock_->Monotonic() + backoff > give_up_at) return answer;
    if (first && on_wait_) on_wait_(answer.status());
    if (interrupt_->WaitFor(backoff)) return absl::CancelledError("interrupted");
    backoff = std::min(2 * backoff, options_.backoff_max);
  }
}

absl::StatusOr<v1::Job> Service::GetJob(const std::string& job_id, absl::Duration patience) {
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  VLM_ASSIGN_OR_RETURN(v1::GetJobResponse response,
                       Call<v1::GetJobResponse>("/vlm.v1.JobService/GetJob", request, patience));
  return std::move(*response.mutable_job());
}

absl::StatusOr<v1::ListJobsResponse> Service::ListJobs() {
  v1::ListJobsRequest request;
  request.set_page_size(kJobsPageSize);
  v1::ListJobsResponse all;
  for (int page = 0; page < kPagesMax; ++page) {
    VLM_ASSIGN_OR_RETURN(v1::ListJobsResponse response,
                         Call<v1::ListJobsResponse>("/vlm.v1.JobService/ListJobs", request));
    for (v1::Job& job : *response.mutable_jobs()) *all.add_jobs() = std::move(job);
    if (response.next_page_token().empty()) return all;
    request.set_page_token(response.next_page_token());
  }
  return absl::InternalError(absl::StrCat("the list of jobs does not end: gave up after pages ", kPagesMax));
}

absl::StatusOr<v1::Job> Service::FindJob(const std::string& job) {
  absl::StatusOr<v1::Job> by_id = GetJob(job);
  if (by_id.ok() || !absl::IsNotFound(by_id.status())) return by_id;
  VLM_ASSIGN_OR_RETURN(const v1::ListJobsResponse all, ListJobs());
  std::vector<std::string> ids;
  for (const v1::Job& candidate : all.jobs()) {
    if (candidate.name() == job) ids.push_back(candidate.job_id());
  }
  if (ids.empty()) return absl::NotFoundError(absl::StrCat("no such job; `vlmctl list` shows them: ", job));
  if (ids.size() == 1) return GetJob(ids[0]);
  std::string message = absl::StrCat("several jobs have this name; give an id (newest first): ", job);
  for (const std::string& id : ids) absl::StrAppend(&message, "\n  ", id);
  return absl::InvalidArgumentError(message);
}

}  // namespace vlm::cli
