#include "cli/job_verbs.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/follow.h"
#include "cli/job_watch.h"
#include "cli/spec_verbs.h"
#include "rpc/bad_request.h"

namespace vlm::cli {
namespace {

// Without a word from the coordinator: heartbeats come every 5 s.
constexpr absl::Duration kHistorySilenceMax = absl::Seconds(20);
constexpr absl::Duration kHistoryTick = absl::Milliseconds(500);

absl::StatusOr<std::vector<v1::Event>> ReadHistory(const Context& context, const std::string& job_id) {
  const Interrupt::Listener listener(context.interrupt);
  JobWatch watch(context.service, job_id);
  std::vector<v1::Event> events;
  absl::Duration give_up_at = context.clock->Monotonic() + kHistorySilenceMax;
  absl::Status problem = absl::DeadlineExceededError("nothing came in time");
  while (context.clock->Monotonic() < give_up_at) {
    if (context.interrupt->raised()) return absl::CancelledError("interrupted while reading the job's events");
    WatchItem item = watch.Next(kHistoryTick);
    switch (item.kind) {
      case WatchItem::Kind::kEvent:
        // A stream that broke goes on behind the last event; from the first one only when the store is another.
        if (!events.empty() && item.event.sequence() <= events.back().sequence()) events.clear();
        events.push_back(std::move(item.event));
        give_up_at = context.clock->Monotonic() + kHistorySilenceMax;
        break;
      case WatchItem::Kind::kAway:
        problem = std::move(item.status);
        give_up_at = std::min(give_up_at, context.clock->Monotonic() + kShortPatience);
        break;
      case WatchItem::Kind::kFailed:
        return item.status;
      case WatchItem::Kind::kHeartbeat:
      case WatchItem::Kind::kProgress:
        return events;  // sent only to who has every event so far
      case WatchItem::Kind::kNothing:
        break;
    }
  }
  return Annotate(problem, "the job's events cannot be read");
}

absl::StatusOr<std::string> Send(const Context& context, const SubmitArguments& arguments, std::string composed) {
  v1::SubmitJobRequest request;
  request.set_job_yaml(std::move(composed));
  request.set_request_id(arguments.request_id.empty() ? context.new_request_id() : arguments.request_id);
  request.set_validate_only(arguments.validate_only);
  VLM_ASSIGN_OR_RETURN(
      const v1::SubmitJobResponse response,
      context.service->Call<v1::SubmitJobResponse>("/vlm.v1.JobService/SubmitJob", request, kLongPatience));
  return response.job_id();
}

VerbResult TellState(const Context& context, const std::string& job_id, v1::JobState state, const std::string& hint) {
  context.terminal->Line(absl::StrCat("job ", job_id, " is ", Word(state), hint));
  return ExitCode::kOk;
}

}  // namespace

VerbResult PrintMessage(const Context& context, const google::protobuf::Message& message) {
  VLM_ASSIGN_OR_RETURN(const std::string text, MessageToText(message, context.format));
  context.terminal->Write(text);
  return ExitCode::kOk;
}

VerbResult Submit(const Context& context, const SubmitArguments& arguments) {
  std::optional<std::string> composed =
      ComposeOrExplain(context, arguments.file, arguments.overrides, "nothing was submitted");
  if (!composed) return ExitCode::kInvalidJobFile;
  // What is wrong with an option or a token is not the job file's fault.
  const absl::Status reachable = context.service->channel().status();
  if (!reachable.ok() && !absl::IsUnavailable(reachable)) return reachable;
  const absl::StatusOr<std::string> job_id = Send(context, arguments, *std::move(composed));
  if (absl::IsInvalidArgument(job_id.status())) {
    const std::vector<rpc::FieldViolation> violations = rpc::ViolationsOf(job_id.status());
    for (const rpc::FieldViolation& violation : violations) {
      context.terminal->Error(absl::StrCat(arguments.file, ": the coordinator refuses the job: ", violation.field, ": ",
                                           violation.description));
    }
    if (violations.empty()) {
      context.terminal->Error(
          absl::StrCat(arguments.file, ": the coordinator refuses the job: ", std::string(job_id.status().message())));
    }
    return ExitCode::kInvalidJobFile;
  }
  if (!job_id.ok()) return job_id.status();
  if (!arguments.id_file.empty() && !(std::ofstream(arguments.id_file) << *job_id << "\n").flush()) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", *job_id, " is submitted, but its id cannot be written to ", arguments.id_file));
  }
  if (context.format != OutputFormat::kTable) {
    v1::SubmitJobResponse response;
    response.set_job_id(*job_id);
    return PrintMessage(context, response);
  }
  if (arguments.quiet) {
    if (!arguments.validate_only) context.terminal->Line(*job_id);
    return ExitCode::kOk;
  }
  if (arguments.validate_only) {
    context.terminal->Line(absl::StrCat(arguments.file, ": valid; nothing was stored"));
    return ExitCode::kOk;
  }
  context.terminal->Line(absl::StrCat("job ", *job_id, " submitted"));
  if (arguments.follow) return FollowJob(context, *job_id);
  context.terminal->Line(absl::StrCat("see it with `vlmctl get ", *job_id, "`, wait with `vlmctl wait ", *job_id, "`"));
  return ExitCode::kOk;
}

VerbResult ListJobs(const Context& context) {
  VLM_ASSIGN_OR_RETURN(const v1::ListJobsResponse jobs, context.service->ListJobs());
  if (context.format != OutputFormat::kTable) return PrintMessage(context, jobs);
  context.terminal->Write(JobListText(jobs, context.View()));
  return ExitCode::kOk;
}

VerbResult GetJob(const Context& context, const std::string& job) {
  VLM_ASSIGN_OR_RETURN(const v1::Job found, context.service->FindJob(job));
  if (context.format != OutputFormat::kTable) return PrintMessage(context, found);
  context.terminal->Write(JobText(found, context.View()));
  return ExitCode::kOk;
}

VerbResult DescribeJob(const Context& context, const std::string& job) {
  VLM_ASSIGN_OR_RETURN(const v1::Job found, context.service->FindJob(job));
  VLM_ASSIGN_OR_RETURN(const std::vector<v1::Event> events, ReadHistory(context, found.job_id()));
  if (context.format == OutputFormat::kTable) {
    context.terminal->Write(JobDescription(found, events, context.View()));
    return ExitCode::kOk;
  }
  nlohmann::ordered_json document;
  VLM_ASSIGN_OR_RETURN(const std::string job_json, MessageToJson(found));
  document["job"] = nlohmann::ordered_json::parse(job_json);
  document["events"] = nlohmann::ordered_json::array();
  for (const v1::Event& event : events) {
    VLM_ASSIGN_OR_RETURN(const std::string event_json, MessageToJson(event));
    document["events"].push_back(nlohmann::ordered_json::parse(event_json));
  }
  context.terminal->Write(JsonToText(document.dump(1) + "\n", context.format));
  return ExitCode::kOk;
}

VerbResult WaitForJob(const Context& context, const std::string& job, absl::Duration timeout) {
  VLM_ASSIGN_OR_RETURN(const v1::Job found, context.service->FindJob(job));
  FollowView view;
  view.SetJob(found);
  WatchEnd end = WatchEnd::kEnded;
  if (!IsFinal(found.state())) {
    VLM_ASSIGN_OR_RETURN(end, WatchToEnd(context, found.job_id(), timeout, &view, [] {}));
  }
  const v1::Job& last = view.job();
  if (end == WatchEnd::kInterrupted) {
    context.terminal->Error(absl::StrCat("left; the job goes on: ", last.job_id()));
    return ExitCode::kInterrupted;
  }
  if (context.format != OutputFormat::kTable) {
    VLM_RETURN_IF_ERROR(PrintMessage(context, last).status());
  } else {
    context.terminal->Line(absl::StrCat("job ", last.job_id(), " is ", Word(last.state()),
                                        last.reason().empty() ? "" : ": ", last.reason()));
  }
  return end == WatchEnd::kTimedOut ? ExitCode::kTimeout : ExitCodeOfJob(last.state());
}

VerbResult CancelJob(const Context& context, const std::string& job, const std::string& note) {
  VLM_ASSIGN_OR_RETURN(const v1::Job found, context.service->FindJob(job));
  v1::CancelJobRequest request;
  request.set_job_id(found.job_id());
  request.set_note(note);
  VLM_ASSIGN_OR_RETURN(
      const v1::CancelJobResponse response,
      context.service->Call<v1::CancelJobResponse>("/vlm.v1.JobService/CancelJob", request, kLongPatience));
  if (context.format != OutputFormat::kTable) return PrintMessage(context, response);
  const char* hint = "";
  if (response.state() == v1::JOB_STATE_CANCELLING) hint = "; its ranks are being stopped";
  if (IsFinal(found.state())) hint = "; it had ended before, nothing was cancelled";
  return TellState(context, found.job_id(), response.state(), hint);
}

VerbResult RetryJob(const Context& context, const std::string& job, const std::string& note) {
  VLM_ASSIGN_OR_RETURN(const v1::Job found, context.service->FindJob(job));
  v1::RetryJobRequest request;
  request.set_job_id(found.job_id());
  request.set_note(note);
  request.set_request_id(context.new_request_id());
  VLM_ASSIGN_OR_RETURN(const v1::RetryJobResponse response, context.service->Call<v1::RetryJobResponse>(
                                                                "/vlm.v1.JobService/RetryJob", request, kLongPatience));
  if (context.format != OutputFormat::kTable) return PrintMessage(context, response);
  return TellState(context, found.job_id(), response.state(), "; stages that succeeded are kept");
}

VerbResult ListNodes(const Context& context) {
  VLM_ASSIGN_OR_RETURN(const v1::ListNodesResponse nodes, context.service->Call<v1::ListNodesResponse>(
                                                              "/vlm.v1.NodeService/ListNodes", v1::ListNodesRequest()));
  if (context.format != OutputFormat::kTable) return PrintMessage(context, nodes);
  context.terminal->Write(NodeListText(nodes, context.View()));
  return ExitCode::kOk;
}

}  // namespace vlm::cli
