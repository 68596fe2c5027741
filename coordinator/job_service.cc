#include "coordinator/job_service.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/utf8.h"
#include "coordinator/core/row_keys.h"
#include "rpc/bad_request.h"
#include "rpc/retry.h"
#include "spec/parse.h"

namespace vlm::coordinator {
namespace {

constexpr char kSource[] = "job file";
constexpr absl::Duration kParseAgain = absl::Milliseconds(500);  // 1,024 job files take about so long
// A status travels in trailers of a few KiB (rpc/bad_request.h).
constexpr size_t kErrorTextBytesMax = 2048;

absl::Status BadField(const std::string& field, const absl::Status& status) {
  const auto message = status.message();
  return rpc::WithViolations(Annotate(status, field), {{field, std::string(message.data(), message.size())}});
}

std::string ActorOf(const rpc::CallContext& context) {
  const auto it = context.metadata.find("vlm-role");
  return it == context.metadata.end() ? "" : it->second;
}

}  // namespace

absl::Status DiagnosticsStatus(const spec::Diagnostics& diagnostics) {
  if (diagnostics.empty()) return absl::OkStatus();
  std::string text;
  std::vector<rpc::FieldViolation> violations;
  int64_t told = 0;
  for (const spec::Diagnostic& diagnostic : diagnostics.all()) {
    rpc::FieldViolation violation{diagnostic.path.empty() ? kSource : diagnostic.path, ""};
    if (diagnostic.at.line > 0) {
      absl::StrAppend(&violation.description, "line ", diagnostic.at.line, ", column ", diagnostic.at.column, ": ");
    }
    absl::StrAppend(&violation.description, diagnostic.message, diagnostic.suggestion.empty() ? "" : "; ",
                    diagnostic.suggestion);
    const std::string line = absl::StrCat(text.empty() ? "" : "\n", violation.field, ": ", violation.description);
    violations.push_back(std::move(violation));
    if (!text.empty() && text.size() + line.size() > kErrorTextBytesMax) continue;
    text += CutUtf8(line, kErrorTextBytesMax);
    ++told;
  }
  if (told < diagnostics.count()) absl::StrAppend(&text, "\nand ", diagnostics.count() - told, " more errors");
  return rpc::WithViolations(absl::InvalidArgumentError(text), violations);
}

void JobService::Register(rpc::ServiceRegistry* registry) {
  registry->AddUnary<v1::SubmitJobRequest, v1::SubmitJobResponse>(
      "/vlm.v1.JobService/SubmitJob",
      [this](const rpc::CallContext& context, v1::SubmitJobRequest request, SubmitDone done) {
        Submit(context, std::move(request), std::move(done));
      });
  registry->AddUnary<v1::GetJobRequest, v1::GetJobResponse>(
      "/vlm.v1.JobService/GetJob", [this](const rpc::CallContext&, v1::GetJobRequest request,
                                          std::function<void(absl::StatusOr<v1::GetJobResponse>)> done) {
        GetJob(std::move(request), std::move(done));
      });
  registry->AddUnary<v1::ListJobsRequest, v1::ListJobsResponse>(
      "/vlm.v1.JobService/ListJobs", [this](const rpc::CallContext&, v1::ListJobsRequest request,
                                            std::function<void(absl::StatusOr<v1::ListJobsResponse>)> done) {
        ListJobs(std::move(request), std::move(done));
      });
  registry->AddUnary<v1::CancelJobRequest, v1::CancelJobResponse>(
      "/vlm.v1.JobService/CancelJob", [this](const rpc::CallContext& context, v1::CancelJobRequest request,
                                             std::function<void(absl::StatusOr<v1::CancelJobResponse>)> done) {
        deps_.loop->Call<v1::CancelJobResponse>(
            [&](uint64_t call) { return CancelJob{call, std::move(request), ActorOf(context)}; }, std::move(done));
      });
  registry->AddUnary<v1::RetryJobRequest, v1::RetryJobResponse>(
      "/vlm.v1.JobService/RetryJob", [this](const rpc::CallContext& context, v1::RetryJobRequest request,
                                            std::function<void(absl::StatusOr<v1::RetryJobResponse>)> done) {
        deps_.loop->Call<v1::RetryJobResponse>(
            [&](uint64_t call) { return RetryJob{call, std::move(request), ActorOf(context)}; }, std::move(done));
      });
  registry->AddUnary<v1::QueryMetricsRequest, v1::QueryMetricsResponse>(
      "/vlm.v1.JobService/QueryMetrics", [this](const rpc::CallContext&, v1::QueryMetricsRequest request,
                                                std::function<void(absl::StatusOr<v1::QueryMetricsResponse>)> done) {
        deps_.reader->Post([this, request = std::move(request), done = std::move(done)] {
          const absl::StatusOr<std::optional<std::string>> job = deps_.store->Get(kJobFamily, request.job_id());
          if (!job.ok()) return done(job.status());
          if (!job->has_value()) {
            return done(absl::NotFoundError(absl::StrCat("no such job; `vlmctl list` shows them: ", request.job_id())));
          }
          done(deps_.points->Query(request));
        });
      });
}

void JobService::Submit(const rpc::CallContext& context, v1::SubmitJobRequest request, SubmitDone done) {
  if (request.job_yaml().size() > spec::kJobBytesMax) {
    return done(BadField(
        "job_yaml", absl::InvalidArgumentError(absl::StrCat("job file is too long; bytes allowed ", spec::kJobBytesMax,
                                                            ", got ", request.job_yaml().size()))));
  }
  if (!request.validate_only() && (request.request_id().empty() || request.request_id().size() > kRequestIdBytesMax)) {
    return done(BadField("request_id",
                         absl::InvalidArgumentError(absl::StrCat("1 to ", kRequestIdBytesMax, " bytes are needed, got ",
                                                                 request.request_id().size()))));
  }
  if (parses_waiting_.fetch_add(1) >= kParsesWaitingMax) {
    --parses_waiting_;
    deps_.metrics->CallRefused();
    return done(rpc::WithRetryDelay(
        absl::ResourceExhaustedError("too many job files wait to be parsed; try again in 500 ms"), kParseAgain));
  }
  const absl::Duration arrived = deps_.clock->Monotonic();
  SubmitDone timed = [this, arrived, done = std::move(done)](absl::StatusOr<v1::SubmitJobResponse> response) {
    if (response.ok()) deps_.metrics->Submitted(deps_.clock->Monotonic() - arrived);
    done(std::move(response));
  };
  deps_.parser->Post(
      [this, request = std::move(request), actor = ActorOf(context), timed = std::move(timed)]() mutable {
        --parses_waiting_;
        Parsed(std::move(request), std::move(actor), std::move(timed));
      });
}

void JobService::Parsed(v1::SubmitJobRequest request, std::string actor, SubmitDone done) {
  const absl::Duration begun = deps_.clock->Monotonic();
  spec::Diagnostics diagnostics;
  std::optional<spec::Job> job = spec::ParseJob(request.job_yaml(), kSource, &diagnostics);
  deps_.metrics->Validated(deps_.clock->Monotonic() - begun);
  if (!job.has_value()) return done(DiagnosticsStatus(diagnostics));
  if (!job->artifacts.empty()) {
    const absl::Status allowed = deps_.roots->CheckText(job->artifacts);
    if (!allowed.ok()) return done(BadField("spec.artifacts", allowed));
  }
  if (request.validate_only()) return done(v1::SubmitJobResponse());
  deps_.loop->Call<v1::SubmitJobResponse>(
      [&](uint64_t call) {
        SubmitJob submit(call, *std::move(job), std::move(*request.mutable_job_yaml()),
                         std::move(*request.mutable_request_id()), std::move(actor));
        submit.room = deps_.space->CheckFloor();
        return submit;
      },
      std::move(done));
}

void JobService::GetJob(v1::GetJobRequest request, std::function<void(absl::StatusOr<v1::GetJobResponse>)> done) {
  auto view = std::make_shared<absl::StatusOr<v1::Job>>();
  const absl::Status queued = deps_.loop->Read(
      [view, id = request.job_id()](const Coordinator& core) { *view = core.GetJob(id); },
      [this, view, done] {
        if (!view->ok()) return done(view->status());
        deps_.reader->Post([this, view, done] {
          absl::StatusOr<std::optional<std::string>> text = deps_.store->Get(kJobYamlFamily, (*view)->job_id());
          if (!text.ok()) return done(text.status());
          v1::GetJobResponse response;
          *response.mutable_job() = *std::move(*view);
          response.mutable_job()->set_job_yaml(text->value_or(""));
          done(std::move(response));
        });
      });
  if (!queued.ok()) done(queued);
}

void JobService::ListJobs(v1::ListJobsRequest request, std::function<void(absl::StatusOr<v1::ListJobsResponse>)> done) {
  auto view = std::make_shared<absl::StatusOr<v1::ListJobsResponse>>();
  const absl::Status queued = deps_.loop->Read(
      [view, request = std::move(request)](const Coordinator& core) { *view = core.ListJobs(request); },
      [view, done] { done(std::move(*view)); });
  if (!queued.ok()) done(queued);
}

}  // namespace vlm::coordinator
