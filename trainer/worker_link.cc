#include "trainer/worker_link.h"

#include <unistd.h>

#include <cstdio>
#include <deque>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/utf8.h"
#include "rpc/grpc_channel.h"
#include "rpc/token.h"
#include "vlm/v1/trainer.pb.h"

namespace vlm::trainer {
namespace {

constexpr char kAttach[] = "/vlm.v1.TrainerService/Attach";
constexpr absl::Duration kStartTimeout = absl::Seconds(60);
constexpr absl::Duration kReconnect = absl::Milliseconds(500);
constexpr absl::Duration kEndMax = absl::Seconds(1);  // a worker that does not answer is not waited for
constexpr size_t kMetricsWaitingMax = 10'000;
constexpr size_t kMetricsPerMessage = 500;
constexpr size_t kFailureBytesMax = 4096;
// Of a worker that does not say how long ranks live without a coordinator: the service's default.
constexpr absl::Duration kOrphanGraceDefault = absl::Minutes(10);

v1::RankPhase ToProto(Phase phase) {
  switch (phase) {
    case Phase::kInit:
      return v1::RANK_PHASE_INIT;
    case Phase::kLoad:
      return v1::RANK_PHASE_LOAD;
    case Phase::kStep:
      return v1::RANK_PHASE_STEP;
    case Phase::kEval:
      return v1::RANK_PHASE_EVAL;
    case Phase::kSave:
      return v1::RANK_PHASE_SAVE;
    case Phase::kPublish:
      return v1::RANK_PHASE_PUBLISH;
  }
  return v1::RANK_PHASE_UNSPECIFIED;
}

absl::Duration OrphanGraceOf(const v1::Start& start) {
  const absl::Duration grace =
      absl::Seconds(start.orphan_grace().seconds()) + absl::Nanoseconds(start.orphan_grace().nanos());
  return grace > absl::ZeroDuration() ? grace : kOrphanGraceDefault;
}

// A rank of a pool may have a number above its world: Rendezvous, which pools do not have, looks at that.
absl::Status CheckStart(const v1::Start& start, int rank) {
  if (start.rank() == rank && start.world() >= 1) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the worker's assignment is not this rank's or makes no sense; is it of another version? rank ",
                   start.rank(), " of ", start.world(), " for rank ", rank));
}

Assignment FromProto(const v1::Start& start, const std::string& attempt_id) {
  Assignment assignment;
  const v1::AttemptSpec& spec = start.spec();
  assignment.attempt_id = attempt_id;
  assignment.job_id = spec.job_id();
  assignment.stage = spec.stage();
  assignment.stage_uid = spec.stage_uid();
  assignment.stage_json = spec.stage_json();
  assignment.fence = start.fence();
  assignment.rank = start.rank();
  assignment.world = start.world();
  assignment.seed = spec.seed();
  assignment.artifacts = spec.artifacts();
  for (const v1::InputArtifact& input : spec.inputs()) {
    assignment.inputs.push_back({input.stage(), input.kind(), input.folder(), input.digest()});
  }
  assignment.resume_step = spec.resume().step();
  assignment.resume_folder = spec.resume().folder();
  assignment.resume_cursor = spec.resume().cursor();
  assignment.shards = spec.shards();
  assignment.cuda = start.device().kind() == v1::DEVICE_KIND_CUDA;
  assignment.device_index = start.device().index();
  assignment.threads = std::max(1, start.device().threads());
  assignment.secret = start.secret();
  assignment.run_folder = start.run_folder();
  assignment.data_roots.assign(start.data_roots().begin(), start.data_roots().end());
  return assignment;
}

LinkEndpoint FromProto(const v1::Endpoint& endpoint) {
  return {endpoint.unix_socket(), endpoint.tcp().empty() ? "" : endpoint.tcp(0), endpoint.boot_id(),
          endpoint.nccl_unique_id()};
}

// What arrives on the stream; outlives it and the link. Start and rendezvous are taken once: a rank keeps one identity
// and one set of peers for its life, and a coordinator that has restarted sends its rendezvous again.
struct Inbox {
  Mutex mutex;
  CondVar changed;
  std::optional<v1::Start> start ABSL_GUARDED_BY(mutex);
  std::optional<v1::Rendezvous> rendezvous ABSL_GUARDED_BY(mutex);
  bool closed ABSL_GUARDED_BY(mutex) = false;
  absl::Status closed_with ABSL_GUARDED_BY(mutex);
};

std::pair<std::optional<v1::Start>, std::optional<v1::Rendezvous>> TakenBy(Inbox* inbox) {
  MutexLock lock(&inbox->mutex);
  return {inbox->start, inbox->rendezvous};
}

class Receiver final : public rpc::StreamReceiver {
 public:
  explicit Receiver(std::shared_ptr<Inbox> inbox) : inbox_(std::move(inbox)) {}
  void OnMessage(std::string bytes) override {
    v1::AttachResponse message;
    if (!message.ParseFromString(bytes)) return;
    MutexLock lock(&inbox_->mutex);
    if (message.has_start() && !inbox_->start.has_value()) inbox_->start = message.start();
    if (message.has_rendezvous() && !inbox_->rendezvous.has_value()) inbox_->rendezvous = message.rendezvous();
    inbox_->changed.NotifyAll();
  }
  void OnClosed(absl::Status status) override {
    MutexLock lock(&inbox_->mutex);
    inbox_->closed = true;
    inbox_->closed_with = status;
    inbox_->changed.NotifyAll();
  }

 private:
  const std::shared_ptr<Inbox> inbox_;
};

class StreamWorkerLink final : public WorkerLink {
 public:
  StreamWorkerLink(const LinkOptions& options, std::unique_ptr<rpc::Channel> channel, const Clock* clock)
      : options_(options), clock_(clock), channel_(std::move(channel)) {}

  absl::Status Init() {
    VLM_RETURN_IF_ERROR(Attach());
    const absl::Duration end = clock_->Monotonic() + kStartTimeout;
    MutexLock lock(&inbox_->mutex);
    while (!inbox_->start.has_value()) {
      if (inbox_->closed) return Annotate(inbox_->closed_with, "attach to the worker");
      const absl::Duration left = end - clock_->Monotonic();
      if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("the worker sent no assignment");
      inbox_->changed.WaitFor(&inbox_->mutex, left);
    }
    VLM_RETURN_IF_ERROR(CheckStart(*inbox_->start, options_.rank));
    assignment_ = FromProto(*inbox_->start, options_.attempt_id);
    call_deadline_ = OrphanGraceOf(*inbox_->start);
    beats_ = std::thread([this] { BeatLoop(); });
    return absl::OkStatus();
  }

  ~StreamWorkerLink() override {
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
      changed_.NotifyAll();
    }
    if (beats_.joinable()) beats_.join();
    EndStream();
  }

  const Assignment& assignment() const override { return assignment_; }

  absl::StatusOr<std::vector<LinkEndpoint>> Rendezvous(const LinkEndpoint& mine, absl::Duration timeout) override {
    PostEndpoint(mine);
    const absl::Duration end = clock_->Monotonic() + timeout;
    std::shared_ptr<Inbox> inbox = CurrentInbox();
    while (true) {
      {
        MutexLock lock(&inbox->mutex);
        if (inbox->rendezvous.has_value()) return EndpointsOf(*inbox->rendezvous);
        const absl::Duration left = end - clock_->Monotonic();
        if (left <= absl::ZeroDuration()) {
          return absl::UnavailableError("the other ranks of the attempt did not all become ready in time");
        }
        inbox->changed.WaitFor(&inbox->mutex, std::min(left, options_.beat_interval));
      }
      inbox = CurrentInbox();  // a new one after a reconnect
    }
  }

  void PostReady() override { PostEndpoint({}); }

  void SetPhase(Phase phase) override {
    MutexLock lock(&mutex_);
    phase_ = phase;
  }
  void SetProgress(const Progress& progress) override {
    MutexLock lock(&mutex_);
    progress_ = progress;
  }
  void WatchCollective(std::function<uint64_t()> sequence) override {
    MutexLock lock(&mutex_);
    collective_ = std::move(sequence);
  }

  void AddMetric(std::string_view series, uint64_t step, double value) override {
    v1::MetricPoint point;
    point.set_series(std::string(series));
    point.set_step(step);
    point.set_value(value);
    MutexLock lock(&mutex_);
    if (metrics_.size() >= kMetricsWaitingMax) {
      metrics_.pop_front();
      ++metrics_dropped_;
    }
    metrics_.push_back(std::move(point));
  }

  void ReportFailure(int exit_code, std::string_view message) override {
    v1::AttachRequest request;
    request.mutable_failure()->set_exit_code(exit_code);
    request.mutable_failure()->set_message(CutUtf8(message, kFailureBytesMax));
    {
      MutexLock lock(&mutex_);
      failure_ = request.SerializeAsString();
    }
    Flush();
  }

  // One round of the beat thread sends everything that was queued before.
  void Flush() override {
    MutexLock lock(&mutex_);
    const uint64_t round = rounds_ + 2;  // the running round may have passed the queue already
    const absl::Duration end = clock_->Monotonic() + absl::Seconds(1);
    flush_ = true;
    changed_.NotifyAll();
    while (rounds_ < round && clock_->Monotonic() < end) {
      flush_ = true;
      changed_.NotifyAll();
      changed_.WaitFor(&mutex_, absl::Milliseconds(20));
    }
  }

  rpc::Channel* channel() override { return channel_.get(); }
  rpc::CallOptions call_options() const override {
    rpc::CallOptions options;
    // The worker passes the call on until the service answers. When the service stays away it ends this rank itself;
    // a shorter deadline would make the rank fail before, with work that is done and only waits to be committed.
    options.deadline = call_deadline_;
    options.wait_for_ready = true;
    options.metadata[rpc::kAttemptTokenKey] = options_.token;
    return options;
  }

 private:
  absl::StatusOr<std::vector<LinkEndpoint>> EndpointsOf(const v1::Rendezvous& rendezvous) const {
    if (rendezvous.by_rank_size() != assignment_.world || assignment_.rank >= assignment_.world) {
      return absl::FailedPreconditionError(
          absl::StrCat("the rendezvous does not have one endpoint for each rank: ", rendezvous.by_rank_size(),
                       " for rank ", assignment_.rank, " of ", assignment_.world));
    }
    std::vector<LinkEndpoint> endpoints;
    for (const v1::Endpoint& endpoint : rendezvous.by_rank()) endpoints.push_back(FromProto(endpoint));
    return endpoints;
  }

  std::shared_ptr<Inbox> CurrentInbox() {
    MutexLock lock(&mutex_);
    return inbox_;
  }

  // Waits until the worker has taken what was sent last: a stream that is dropped takes its queue with it.
  void EndStream() {
    const std::shared_ptr<Inbox> inbox = CurrentInbox();
    {
      MutexLock lock(&mutex_);
      if (stream_ == nullptr) return;
      stream_->Close(absl::OkStatus());
    }
    const absl::Duration end = clock_->Monotonic() + kEndMax;
    MutexLock lock(&inbox->mutex);
    while (!inbox->closed && clock_->Monotonic() < end) {
      inbox->changed.WaitFor(&inbox->mutex, end - clock_->Monotonic());
    }
  }

  absl::Status Attach() {
    auto inbox = std::make_shared<Inbox>();
    if (const std::shared_ptr<Inbox> before = CurrentInbox(); before != nullptr) {
      const auto [start, rendezvous] = TakenBy(before.get());
      MutexLock lock(&inbox->mutex);
      inbox->start = start;
      inbox->rendezvous = rendezvous;
    }
    rpc::CallOptions options;
    options.wait_for_ready = true;
    options.metadata[rpc::kAttemptTokenKey] = options_.token;
    std::unique_ptr<rpc::Stream> stream = channel_->Open(kAttach, options, std::make_shared<Receiver>(inbox));
    v1::AttachRequest hello;
    hello.mutable_hello()->set_attempt_id(options_.attempt_id);
    hello.mutable_hello()->set_rank(options_.rank);
    hello.mutable_hello()->set_pid(getpid());
    if (!stream->Send(hello.SerializeAsString())) return absl::UnavailableError("the worker's socket does not answer");
    MutexLock lock(&mutex_);
    stream_ = std::move(stream);
    inbox_ = std::move(inbox);
    if (endpoint_.has_value()) (void)stream_->Send(*endpoint_);
    return absl::OkStatus();
  }

  void PostEndpoint(const LinkEndpoint& mine) {
    v1::AttachRequest request;
    v1::Endpoint* const endpoint = request.mutable_endpoint();
    if (!mine.tcp.empty()) endpoint->add_tcp(mine.tcp);
    endpoint->set_unix_socket(mine.unix_socket);
    endpoint->set_boot_id(mine.boot_id);
    endpoint->set_nccl_unique_id(mine.nccl_unique_id);
    MutexLock lock(&mutex_);
    endpoint_ = request.SerializeAsString();
    (void)stream_->Send(*endpoint_);  // sent again by Attach when the stream is broken
  }

  void BeatLoop() {
    absl::Duration connected_at = clock_->Monotonic();
    while (true) {
      bool connected;
      {
        const std::shared_ptr<Inbox> inbox = CurrentInbox();
        MutexLock lock(&inbox->mutex);
        connected = !inbox->closed;
      }
      const absl::Duration now = clock_->Monotonic();
      if (connected) {
        connected_at = now;
        SendRound();
      } else if (now - connected_at > options_.orphan_grace) {
        std::fprintf(stderr, "trainer: no worker for %s, ending\n",
                     absl::FormatDuration(options_.orphan_grace).c_str());
        _exit(70);
      } else {
        Attach().IgnoreError();
      }
      MutexLock lock(&mutex_);
      ++rounds_;
      changed_.NotifyAll();
      if (stopping_) return;
      if (!flush_) changed_.WaitFor(&mutex_, connected ? options_.beat_interval : kReconnect);
      flush_ = false;
    }
  }

  void SendRound() {
    MutexLock lock(&mutex_);
    v1::AttachRequest request;
    v1::RankBeat* const beat = request.mutable_beat();
    beat->set_attempt_id(options_.attempt_id);
    beat->set_rank(options_.rank);
    beat->set_phase(ToProto(phase_));
    beat->set_counter(progress_.counter);
    beat->set_step(progress_.step);
    beat->set_loss(progress_.loss);
    beat->set_tokens_per_second(progress_.tokens_per_second);
    beat->set_images_per_second(progress_.images_per_second);
    if (collective_) beat->set_collective(collective_());
    (void)stream_->Send(request.SerializeAsString());
    while (!metrics_.empty()) {
      v1::AttachRequest batch;
      v1::MetricBatch* const metrics = batch.mutable_metrics();
      metrics->set_job_id(assignment_.job_id);
      metrics->set_stage(assignment_.stage);
      metrics->set_fence(assignment_.fence);
      metrics->set_dropped(std::exchange(metrics_dropped_, 0));
      for (size_t i = 0; i < kMetricsPerMessage && !metrics_.empty(); ++i) {
        *metrics->add_points() = std::move(metrics_.front());
        metrics_.pop_front();
      }
      if (!stream_->Send(batch.SerializeAsString())) {
        metrics_dropped_ += static_cast<uint64_t>(metrics->points_size());
        break;
      }
    }
    if (failure_.has_value() && stream_->Send(*failure_)) failure_.reset();
  }

  const LinkOptions options_;
  const Clock* const clock_;
  const std::unique_ptr<rpc::Channel> channel_;
  Assignment assignment_;
  absl::Duration call_deadline_;
  Mutex mutex_;
  CondVar changed_;
  std::unique_ptr<rpc::Stream> stream_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Inbox> inbox_ = nullptr;  // replaced under mutex_
  std::optional<std::string> endpoint_ ABSL_GUARDED_BY(mutex_), failure_ ABSL_GUARDED_BY(mutex_);
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kInit;
  Progress progress_ ABSL_GUARDED_BY(mutex_);
  std::function<uint64_t()> collective_ ABSL_GUARDED_BY(mutex_);
  std::deque<v1::MetricPoint> metrics_ ABSL_GUARDED_BY(mutex_);
  uint64_t metrics_dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t rounds_ ABSL_GUARDED_BY(mutex_) = 0;
  bool flush_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread beats_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerLink>> WorkerLink::Connect(const LinkOptions& options, const Clock* clock) {
  rpc::GrpcChannelOptions channel_options;
  channel_options.address = "unix:" + options.socket;
  VLM_ASSIGN_OR_RETURN(std::unique_ptr<rpc::Channel> channel, rpc::NewGrpcChannel(channel_options));
  return Connect(options, std::move(channel), clock);
}

absl::StatusOr<std::unique_ptr<WorkerLink>> WorkerLink::Connect(const LinkOptions& options,
                                                                std::unique_ptr<rpc::Channel> channel,
                                                                const Clock* clock) {
  auto link = std::make_unique<StreamWorkerLink>(options, std::move(channel), clock);
  VLM_RETURN_IF_ERROR(link->Init());
  return std::unique_ptr<WorkerLink>(std::move(link));
}

}  // namespace vlm::trainer
