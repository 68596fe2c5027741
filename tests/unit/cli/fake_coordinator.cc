#include "tests/unit/cli/fake_coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace vlm::cli {
namespace {

constexpr int kJobsPerPage = 2;
constexpr size_t kLogPiece = 16;

std::string LogKey(const std::string& stage, uint64_t fence, int rank) {
  return absl::StrCat(stage, "/", fence, "/", rank);
}

// Answers at once with what `method` returns.
template <typename Request, typename Response, typename Method>
void Add(rpc::ServiceRegistry* registry, const std::string& name, Method method) {
  registry->AddUnary<Request, Response>(
      name, [method](const rpc::CallContext&, Request request, std::function<void(absl::StatusOr<Response>)> respond) {
        respond(method(request));
      });
}

}  // namespace

class FakeCoordinator::Watch final : public rpc::StreamReceiver {
 public:
  Watch(FakeCoordinator* owner, std::shared_ptr<rpc::Stream> stream) : owner_(owner), stream_(std::move(stream)) {}
  void OnMessage(std::string message) override {
    v1::WatchEventsRequest request;
    if (request.ParseFromString(message)) owner_->OpenWatch(request, stream_);
  }
  void OnClosed(absl::Status) override {}

 private:
  FakeCoordinator* const owner_;
  std::shared_ptr<rpc::Stream> stream_;
};

class FakeCoordinator::Tail final : public rpc::StreamReceiver {
 public:
  Tail(FakeCoordinator* owner, std::shared_ptr<rpc::Stream> stream) : owner_(owner), stream_(std::move(stream)) {}
  void OnMessage(std::string message) override {
    v1::TailLogsRequest request;
    if (request.ParseFromString(message)) owner_->OpenTail(request, stream_);
  }
  void OnClosed(absl::Status) override {}

 private:
  FakeCoordinator* const owner_;
  std::shared_ptr<rpc::Stream> stream_;
};

rpc::ServiceRegistry FakeCoordinator::Registry() {
  rpc::ServiceRegistry registry;
  AddJobMethods(&registry);
  AddOtherMethods(&registry);
  registry.streams["/vlm.v1.JobService/WatchEvents"] = [this](const rpc::CallContext&,
                                                              std::shared_ptr<rpc::Stream> stream) {
    return std::make_shared<Watch>(this, std::move(stream));
  };
  registry.streams["/vlm.v1.JobService/TailLogs"] = [this](const rpc::CallContext&,
                                                           std::shared_ptr<rpc::Stream> stream) {
    return std::make_shared<Tail>(this, std::move(stream));
  };
  return registry;
}

void FakeCoordinator::AddJobMethods(rpc::ServiceRegistry* registry) {
  Add<v1::SubmitJobRequest, v1::SubmitJobResponse>(registry, "/vlm.v1.JobService/SubmitJob",
                                                   [this](const auto& request) { return Submit(request); });
  Add<v1::GetJobRequest, v1::GetJobResponse>(registry, "/vlm.v1.JobService/GetJob",
                                             [this](const auto& request) { return Get(request); });
  Add<v1::ListJobsRequest, v1::ListJobsResponse>(registry, "/vlm.v1.JobService/ListJobs",
                                                 [this](const auto& request) { return List(request); });
  Add<v1::CancelJobRequest, v1::CancelJobResponse>(
      registry, "/vlm.v1.JobService/CancelJob",
      [this](const v1::CancelJobRequest& request) -> absl::StatusOr<v1::CancelJobResponse> {
        SetJobState(request.job_id(), v1::JOB_STATE_CANCELLING);
        MutexLock lock(&mutex_);
        notes_.push_back(request.note());
        v1::CancelJobResponse response;
        response.set_state(v1::JOB_STATE_CANCELLING);
        return response;
      });
  Add<v1::RetryJobRequest, v1::RetryJobResponse>(
      registry, "/vlm.v1.JobService/RetryJob",
      [this](const v1::RetryJobRequest& request) -> absl::StatusOr<v1::RetryJobResponse> {
        MutexLock lock(&mutex_);
        v1::Job* const job = Find(request.job_id());
        const bool known = std::find(retries_.begin(), retries_.end(), request.request_id()) != retries_.end();
        retries_.push_back(request.request_id());
        if (!known && job->state() != v1::JOB_STATE_FAILED) {
          return absl::FailedPreconditionError("only a failed job can be retried; this one is running");
        }
        job->set_state(v1::JOB_STATE_PENDING);
        if (!known) notes_.push_back(request.note());
        if (lose_retries_ > 0) {
          --lose_retries_;
          return absl::UnavailableError("connection reset");
        }
        v1::RetryJobResponse response;
        response.set_state(v1::JOB_STATE_PENDING);
        return response;
      });
}

void FakeCoordinator::AddOtherMethods(rpc::ServiceRegistry* registry) {
  Add<v1::ListNodesRequest, v1::ListNodesResponse>(registry, "/vlm.v1.NodeService/ListNodes",
                                                   [this](const auto&) -> absl::StatusOr<v1::ListNodesResponse> {
                                                     MutexLock lock(&mutex_);
                                                     v1::ListNodesResponse response;
                                                     for (const v1::Node& node : nodes_) *response.add_nodes() = node;
                                                     return response;
                                                   });
  Add<v1::ListStepsRequest, v1::ListStepsResponse>(
      registry, "/vlm.v1.CheckpointService/ListSteps",
      [this](const v1::ListStepsRequest& request) -> absl::StatusOr<v1::ListStepsResponse> {
        MutexLock lock(&mutex_);
        v1::ListStepsResponse response;
        for (const v1::Step& step : steps_) {
          if (step.job_id() == request.job_id()) *response.add_steps() = step;
        }
        return response;
      });
  Add<v1::GetLatestRequest, v1::GetLatestResponse>(registry, "/vlm.v1.CheckpointService/GetLatest",
                                                   [this](const auto& request) { return Latest(request); });
  Add<v1::GetStepRequest, v1::GetStepResponse>(registry, "/vlm.v1.CheckpointService/GetStep",
                                               [this](const auto& request) { return GetStep(request); });
  Add<v1::VerifyStepRequest, v1::VerifyStepResponse>(registry, "/vlm.v1.CheckpointService/VerifyStep",
                                                     [this](const auto&) -> absl::StatusOr<v1::VerifyStepResponse> {
                                                       MutexLock lock(&mutex_);
                                                       v1::VerifyStepResponse response;
                                                       response.set_bytes(3 << 20);
                                                       for (const auto& damage : damages_)
                                                         *response.add_damages() = damage;
                                                       return response;
                                                     });
}

v1::Job* FakeCoordinator::Find(const std::string& job_id) {
  for (v1::Job& job : jobs_) {
    if (job.job_id() == job_id) return &job;
  }
  return nullptr;
}

absl::StatusOr<v1::SubmitJobResponse> FakeCoordinator::Submit(const v1::SubmitJobRequest& request) {
  MutexLock lock(&mutex_);
  submitted_.push_back(request);
  if (!refusal_.ok()) return refusal_;
  v1::SubmitJobResponse response;
  if (request.validate_only()) return response;
  const auto [known, is_new] = requests_.emplace(
      request.request_id(), std::pair(absl::StrCat("job-", requests_.size() + 1), request.job_yaml()));
  if (!is_new && known->second.second != request.job_yaml()) {
    return absl::AlreadyExistsError("the request was used for another job");
  }
  if (is_new) {
    v1::Job job;
    job.set_job_id(known->second.first);
    job.set_name("job");
    job.set_state(v1::JOB_STATE_PENDING);
    jobs_.insert(jobs_.begin(), job);
  }
  if (lose_answers_ > 0) {
    --lose_answers_;
    return absl::UnavailableError("connection reset");
  }
  response.set_job_id(known->second.first);
  return response;
}

absl::StatusOr<v1::GetJobResponse> FakeCoordinator::Get(const v1::GetJobRequest& request) {
  MutexLock lock(&mutex_);
  const v1::Job* const job = Find(request.job_id());
  if (job == nullptr) return absl::NotFoundError("no such job: " + request.job_id());
  v1::GetJobResponse response;
  *response.mutable_job() = *job;
  return response;
}

absl::StatusOr<v1::ListJobsResponse> FakeCoordinator::List(const v1::ListJobsRequest& request) {
  MutexLock lock(&mutex_);
  ++pages_;
  size_t begin = 0;
  if (!request.page_token().empty() && !absl::SimpleAtoi(request.page_token(), &begin)) {
    return absl::InvalidArgumentError("no page token");
  }
  v1::ListJobsResponse response;
  const size_t end = std::min(jobs_.size(), begin + kJobsPerPage);
  for (size_t i = begin; i < end; ++i) *response.add_jobs() = jobs_[i];
  if (end < jobs_.size()) response.set_next_page_token(absl::StrCat(end));
  return response;
}

absl::StatusOr<v1::GetLatestResponse> FakeCoordinator::Latest(const v1::GetLatestRequest& request) {
  MutexLock lock(&mutex_);
  v1::GetLatestResponse response;
  for (const v1::Step& step : steps_) {
    if (step.stage_uid() == request.stage_uid() && step.state() == v1::STEP_STATE_COMPLETE)
      *response.mutable_step() = step;
  }
  if (!response.has_step()) return absl::NotFoundError("no complete step");
  return response;
}

absl::StatusOr<v1::GetStepResponse> FakeCoordinator::GetStep(const v1::GetStepRequest& request) {
  MutexLock lock(&mutex_);
  v1::GetStepResponse response;
  for (const v1::Step& step : steps_) {
    if (step.stage_uid() != request.stage_uid() || step.step() != request.step()) continue;
    *response.mutable_step() = step;
    return response;
  }
  return absl::NotFoundError("no such step");
}

void FakeCoordinator::OpenWatch(const v1::WatchEventsRequest& request, const std::shared_ptr<rpc::Stream>& stream) {
  MutexLock lock(&mutex_);
  cursors_.push_back(request.cursor());
  changed_.NotifyAll();
  if (Find(request.job_id()) == nullptr) return stream->Close(absl::NotFoundError("no such job: " + request.job_id()));
  if (refuse_watches_) return stream->Close(absl::ResourceExhaustedError("too many watchers"));
  uint64_t after = 0;
  if (!request.cursor().empty() && (!request.cursor().starts_with(cursor_prefix_) ||
                                    !absl::SimpleAtoi(request.cursor().substr(cursor_prefix_.size()), &after))) {
    return stream->Close(absl::FailedPreconditionError("the cursor is of another store"));
  }
  size_t sent = 0;
  for (const v1::Event& event : events_) {
    if (event.job_id() != request.job_id() || event.sequence() <= after) continue;
    if (break_after_ > 0 && sent++ == break_after_) return stream->Close(absl::UnavailableError("connection reset"));
    v1::WatchEventsResponse response;
    *response.mutable_event() = event;
    response.set_cursor(absl::StrCat(cursor_prefix_, event.sequence()));
    stream->Send(response.SerializeAsString());
  }
  watchers_.push_back({request.job_id(), stream});
  if (hold_heartbeats_) return;
  v1::WatchEventsResponse heartbeat;
  heartbeat.mutable_heartbeat();
  stream->Send(heartbeat.SerializeAsString());
}

void FakeCoordinator::BreakWatchesAfter(size_t events) {
  MutexLock lock(&mutex_);
  break_after_ = events;
}

void FakeCoordinator::BreakTails(int count) {
  MutexLock lock(&mutex_);
  break_tails_ = count;
}

void FakeCoordinator::WaitForBrokenTails() {
  MutexLock lock(&mutex_);
  while (break_tails_ > 0) {
    VLM_CHECK(changed_.WaitFor(&mutex_, absl::Seconds(20)), "nobody opened a log again");
  }
}

void FakeCoordinator::RefuseWatches(bool refuse) {
  MutexLock lock(&mutex_);
  refuse_watches_ = refuse;
}

void FakeCoordinator::HoldHeartbeats() {
  MutexLock lock(&mutex_);
  hold_heartbeats_ = true;
}

void FakeCoordinator::SendHeartbeat() {
  MutexLock lock(&mutex_);
  v1::WatchEventsResponse heartbeat;
  heartbeat.mutable_heartbeat();
  for (const Watcher& watcher : watchers_) watcher.stream->Send(heartbeat.SerializeAsString());
}

void FakeCoordinator::LoseRetryAnswers(int count) {
  MutexLock lock(&mutex_);
  lose_retries_ = count;
}

std::vector<std::string> FakeCoordinator::retries() const {
  MutexLock lock(&mutex_);
  return retries_;
}

void FakeCoordinator::OpenTail(const v1::TailLogsRequest& request, const std::shared_ptr<rpc::Stream>& stream) {
  MutexLock lock(&mutex_);
  const auto log = logs_.find(LogKey(request.stage(), request.fence(), static_cast<int>(request.rank())));
  if (log == logs_.end()) return stream->Close(absl::NotFoundError("no log"));
  for (size_t at = request.offset(); at < log->second.size(); at += kLogPiece) {
    v1::TailLogsResponse response;
    response.set_offset(at);
    response.set_data(log->second.substr(at, kLogPiece));
    stream->Send(response.SerializeAsString());
  }
  const bool breaks = break_tails_ > 0;
  if (breaks) --break_tails_;
  changed_.NotifyAll();
  stream->Close(breaks ? absl::UnavailableError("connection reset") : absl::OkStatus());
}

void FakeCoordinator::AddJob(v1::Job job) {
  MutexLock lock(&mutex_);
  jobs_.insert(jobs_.begin(), std::move(job));
}

void FakeCoordinator::SetJobState(const std::string& job_id, v1::JobState state, const std::string& reason) {
  MutexLock lock(&mutex_);
  Find(job_id)->set_state(state);
  Find(job_id)->set_reason(reason);
}

void FakeCoordinator::SetStage(const std::string& job_id, const v1::Stage& stage) {
  MutexLock lock(&mutex_);
  v1::Job* const job = Find(job_id);
  for (v1::Stage& known : *job->mutable_stages()) {
    if (known.name() == stage.name()) {
      known = stage;
      return;
    }
  }
  *job->add_stages() = stage;
}

void FakeCoordinator::Emit(const std::string& job_id, const std::string& stage, const std::string& kind,
                           const std::string& reason) {
  MutexLock lock(&mutex_);
  v1::Event event;
  event.set_sequence(events_.size() + 1);
  event.set_job_id(job_id);
  event.set_stage(stage);
  event.set_kind(kind);
  event.set_reason(reason);
  event.mutable_at()->set_seconds(1700000000 + static_cast<int64_t>(events_.size()));
  events_.push_back(event);
  v1::WatchEventsResponse response;
  *response.mutable_event() = event;
  response.set_cursor(absl::StrCat(cursor_prefix_, event.sequence()));
  for (const Watcher& watcher : watchers_) {
    if (watcher.job_id == job_id) watcher.stream->Send(response.SerializeAsString());
  }
}

void FakeCoordinator::SendProgress(const std::string& job_id, const std::string& stage, const v1::Progress& progress) {
  MutexLock lock(&mutex_);
  for (v1::Stage& known : *Find(job_id)->mutable_stages()) {
    if (known.name() == stage) *known.mutable_progress() = progress;
  }
  v1::WatchEventsResponse response;
  *response.mutable_progress() = progress;
  response.set_stage(stage);
  for (const Watcher& watcher : watchers_) {
    if (watcher.job_id == job_id) watcher.stream->Send(response.SerializeAsString());
  }
}

void FakeCoordinator::SetLog(const std::string& stage, uint64_t fence, int rank, const std::string& text) {
  MutexLock lock(&mutex_);
  logs_[LogKey(stage, fence, rank)] = text;
}

void FakeCoordinator::AddStep(const v1::Step& step) {
  MutexLock lock(&mutex_);
  steps_.push_back(step);
}

void FakeCoordinator::SetDamages(std::vector<v1::VerifyStepResponse::Damage> damages) {
  MutexLock lock(&mutex_);
  damages_ = std::move(damages);
}

void FakeCoordinator::AddNode(const v1::Node& node) {
  MutexLock lock(&mutex_);
  nodes_.push_back(node);
}

void FakeCoordinator::LoseSubmitAnswers(int count) {
  MutexLock lock(&mutex_);
  lose_answers_ = count;
}

void FakeCoordinator::RefuseSubmits(const absl::Status& status) {
  MutexLock lock(&mutex_);
  refusal_ = status;
}

void FakeCoordinator::BreakWatches() {
  MutexLock lock(&mutex_);
  for (const Watcher& watcher : watchers_) watcher.stream->Close(absl::UnavailableError("connection reset"));
  watchers_.clear();
}

void FakeCoordinator::SetCursorPrefix(const std::string& prefix) {
  MutexLock lock(&mutex_);
  cursor_prefix_ = prefix;
}

int FakeCoordinator::pages() const {
  MutexLock lock(&mutex_);
  return pages_;
}

int FakeCoordinator::submits() const {
  MutexLock lock(&mutex_);
  return static_cast<int>(submitted_.size());
}

size_t FakeCoordinator::jobs_stored() const {
  MutexLock lock(&mutex_);
  return jobs_.size();
}

std::vector<v1::SubmitJobRequest> FakeCoordinator::submitted() const {
  MutexLock lock(&mutex_);
  return submitted_;
}

std::vector<std::string> FakeCoordinator::notes() const {
  MutexLock lock(&mutex_);
  return notes_;
}

std::vector<std::string> FakeCoordinator::cursors() const {
  MutexLock lock(&mutex_);
  return cursors_;
}

void FakeCoordinator::WaitForWatch(size_t count) const {
  MutexLock lock(&mutex_);
  while (cursors_.size() < count) {
    VLM_CHECK(changed_.WaitFor(&mutex_, absl::Seconds(20)), "nobody opened a watch");
  }
}

}  // namespace vlm::cli
