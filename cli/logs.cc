#include "cli/logs.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/stage_choice.h"
#include "cli/stream_inbox.h"

namespace vlm::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(200);
constexpr absl::Duration kLookInterval = absl::Seconds(2);    // at the job, while following
constexpr absl::Duration kAnswerMax = absl::Seconds(20);      // for the next part of a log that has an end
constexpr absl::Duration kBackoff = absl::Milliseconds(500);  // before opening a broken stream again
constexpr absl::Duration kAwayMax = absl::Minutes(10);
constexpr absl::Duration kSteady = absl::Seconds(5);  // open for so long, a stream had a coordinator at its end

// One attempt's log of one rank, read on across broken streams.
class LogTail {
 public:
  enum class Progress { kQuiet, kData, kClosed };

  LogTail(const Context& context, v1::TailLogsRequest request)
      : context_(context), request_(std::move(request)), heard_at_(context.clock->Monotonic()) {}

  // Waits up to kTick for more and prints it. kClosed: the service has sent all there is (as long as nothing is added).
  absl::StatusOr<Progress> Turn() {
    const absl::Duration now = context_.clock->Monotonic();
    if (stream_ == nullptr) {
      if (now < open_at_) {
        context_.interrupt->WaitFor(std::min(kTick, open_at_ - now));
        return Progress::kQuiet;
      }
      VLM_RETURN_IF_ERROR(Open());
    }
    std::optional<StreamInbox::Entry> entry = inbox_->Take(kTick);
    if (!entry) return Progress::kQuiet;
    if (!entry->closed) {
      heard_at_ = now;
      away_since_.reset();
      VLM_RETURN_IF_ERROR(Print(entry->message));
      return Progress::kData;
    }
    stream_.reset();
    open_at_ = now + kBackoff;
    if (entry->closed->ok()) {
      away_since_.reset();
      return Progress::kClosed;
    }
    if (IsForGood(*entry->closed)) return *entry->closed;
    // A rank may be silent for hours: only how long no stream would stay open counts.
    if (!away_since_ || now - opened_at_ > kSteady) away_since_ = now;
    if (now - *away_since_ > (request_.follow() ? kAwayMax : kAnswerMax)) return *entry->closed;
    return Progress::kQuiet;
  }

  absl::Duration heard_at() const { return heard_at_; }
  uint64_t fence() const { return request_.fence(); }

 private:
  absl::Status Open() {
    absl::StatusOr<rpc::Channel*> channel = context_.service->channel();
    if (!channel.ok()) return channel.status();
    inbox_ = std::make_shared<StreamInbox>();
    opened_at_ = context_.clock->Monotonic();
    stream_ = (*channel)->Open("/vlm.v1.JobService/TailLogs", {}, inbox_);
    stream_->Send(request_.SerializeAsString());  // a stream that is closed already says so through the inbox
    return absl::OkStatus();
  }

  absl::Status Print(const std::string& message) {
    v1::TailLogsResponse response;
    if (!response.ParseFromString(message)) {
      return absl::InternalError("the coordinator's log message does not parse: another version?");
    }
    if (response.data().size() > UINT64_MAX - response.offset()) {
      return absl::InternalError(absl::StrCat("the coordinator's piece of a log ends behind all places: ",
                                              response.data().size(), " bytes at ", response.offset()));
    }
    const uint64_t expected = request_.offset();
    if (response.offset() > expected) {
      context_.terminal->Error(absl::StrCat("... ", response.offset() - expected, " bytes are not kept ..."));
    }
    std::string_view data = response.data();
    // A part that was seen before the stream broke is not shown twice.
    if (response.offset() < expected) data.remove_prefix(std::min<size_t>(data.size(), expected - response.offset()));
    context_.terminal->Write(data);
    request_.set_offset(std::max<uint64_t>(expected, response.offset() + response.data().size()));
    return absl::OkStatus();
  }

  const Context& context_;
  v1::TailLogsRequest request_;  // offset: of the next byte
  std::shared_ptr<StreamInbox> inbox_;
  std::unique_ptr<rpc::Stream> stream_;
  absl::Duration heard_at_;
  absl::Duration open_at_ = -absl::InfiniteDuration();
  absl::Duration opened_at_;
  std::optional<absl::Duration> away_since_;
};

v1::TailLogsRequest RequestFor(const v1::Job& job, const v1::Stage& stage, const LogsArguments& arguments) {
  v1::TailLogsRequest request;
  request.set_job_id(job.job_id());
  request.set_stage(stage.name());
  request.set_fence(stage.fence());
  request.set_rank(arguments.rank);
  request.set_follow(arguments.follow);
  return request;
}

VerbResult ReadOnce(const Context& context, const v1::TailLogsRequest& request) {
  LogTail tail(context, request);
  while (!context.interrupt->raised()) {
    VLM_ASSIGN_OR_RETURN(const LogTail::Progress progress, tail.Turn());
    if (progress == LogTail::Progress::kClosed) return ExitCode::kOk;
    if (context.clock->Monotonic() - tail.heard_at() > kAnswerMax) {
      return absl::DeadlineExceededError("the coordinator sends no log");
    }
  }
  return ExitCode::kInterrupted;
}

// Follows one stage through its attempts.
class Follower {
 public:
  Follower(const Context& context, const LogsArguments& arguments, std::string job_id, std::string stage)
      : context_(context), arguments_(arguments), job_id_(std::move(job_id)), stage_(std::move(stage)) {}

  VerbResult Run() {
    while (!context_.interrupt->raised()) {
      VLM_RETURN_IF_ERROR(LookWhenDue());
      if (!tail_) {
        if (ended_) return ExitCode::kOk;
        context_.interrupt->WaitFor(kTick);
        continue;
      }
      VLM_ASSIGN_OR_RETURN(const LogTail::Progress progress, tail_->Turn());
      if (progress == LogTail::Progress::kData) quiet_since_end_ = false;
      // The end counts once nothing more came after it was seen: the last lines may still be on their way.
      else if (ended_ && quiet_since_end_ && context_.clock->Monotonic() - tail_->heard_at() > kLookInterval) {
        return ExitCode::kOk;
      }
    }
    context_.terminal->Error(absl::StrCat("left; the job goes on: ", job_id_));
    return ExitCode::kInterrupted;
  }

 private:
  absl::Status LookWhenDue() {
    const absl::Duration now = context_.clock->Monotonic();
    if (now - looked_at_ < kLookInterval) return absl::OkStatus();
    looked_at_ = now;
    absl::StatusOr<v1::Job> job = context_.service->GetJob(job_id_, kNoPatience);
    if (!job.ok()) {
      if (ExitCodeOf(job.status()) != ExitCode::kUnreachable) return job.status();
      if (now - seen_at_ > kAwayMax) return job.status();
      return absl::OkStatus();
    }
    seen_at_ = now;
    VLM_ASSIGN_OR_RETURN(const v1::Stage* const stage, FindStage(*job, stage_));
    if (stage->fence() > 0 && (!tail_ || tail_->fence() != stage->fence())) {
      context_.terminal->Error(
          absl::StrCat("==> ", stage_, ", attempt ", stage->fence(), ", rank ", arguments_.rank, " <=="));
      tail_.emplace(context_, RequestFor(*job, *stage, arguments_));
    }
    quiet_since_end_ = ended_;
    ended_ = IsFinal(stage->state());
    return absl::OkStatus();
  }

  const Context& context_;
  const LogsArguments& arguments_;
  const std::string job_id_;
  const std::string stage_;
  std::optional<LogTail> tail_;
  bool ended_ = false;
  bool quiet_since_end_ = false;
  absl::Duration looked_at_ = -absl::InfiniteDuration();
  absl::Duration seen_at_ = context_.clock->Monotonic();
};

}  // namespace

VerbResult Logs(const Context& context, const LogsArguments& arguments) {
  VLM_ASSIGN_OR_RETURN(const v1::Job job, context.service->FindJob(arguments.job));
  const v1::Stage* stage = nullptr;
  if (arguments.stage.empty()) {
    VLM_ASSIGN_OR_RETURN(stage, StageOfInterest(job));
  } else {
    VLM_ASSIGN_OR_RETURN(stage, FindStage(job, arguments.stage));
  }
  const Interrupt::Listener listener(context.interrupt);
  if (arguments.follow) return Follower(context, arguments, job.job_id(), stage->name()).Run();
  if (stage->fence() == 0) {
    return absl::FailedPreconditionError(absl::StrCat("the stage has written nothing, it is ", Word(stage->state()),
                                                      " (", stage->reason(), "): ", stage->name()));
  }
  context.terminal->Error(
      absl::StrCat("==> ", stage->name(), ", attempt ", stage->fence(), ", rank ", arguments.rank, " <=="));
  return ReadOnce(context, RequestFor(job, *stage, arguments));
}

}  // namespace vlm::cli
