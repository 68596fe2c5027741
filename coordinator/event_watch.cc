#include "coordinator/event_watch.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/core/row_keys.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kStoreUuidBytes = 16;
constexpr size_t kEventsPerPass = 256;  // then other watchers get their turn
constexpr int kRefusedMax = 6;          // heartbeats; a client that takes nothing for so long is gone

}  // namespace

class EventWatch::Receiver final : public rpc::StreamReceiver {
 public:
  Receiver(EventWatch* watch, uint64_t id, std::shared_ptr<rpc::Stream> stream)
      : watch_(watch), id_(id), stream_(std::move(stream)) {}

  void OnMessage(std::string message) override {
    v1::WatchEventsRequest request;
    if (stream_ == nullptr || !request.ParseFromString(message)) {
      watch_->thread_->Post([watch = watch_, id = id_, stream = std::move(stream_)] {
        if (stream != nullptr) stream->Close(absl::InvalidArgumentError("the request does not parse"));
        watch->End(id, absl::InvalidArgumentError("WatchEvents takes one request"));
      });
      return;
    }
    watch_->thread_->Post(
        [watch = watch_, id = id_, stream = std::move(stream_), request] { watch->Begin(id, stream, request); });
  }
  // A client may end its side after the request and go on reading; only a broken stream ends the watch.
  void OnClosed(absl::Status status) override {
    if (status.ok()) return;
    watch_->thread_->Post([watch = watch_, id = id_, status] { watch->End(id, status); });
  }

 private:
  EventWatch* const watch_;
  const uint64_t id_;
  std::shared_ptr<rpc::Stream> stream_;
};

EventWatch::EventWatch(EventWatchOptions options, store::MetaStore* store, DecisionLoop* loop, Executor* thread,
                       CoordinatorMetrics* metrics)
    : options_(std::move(options)), store_(store), loop_(loop), thread_(thread), metrics_(metrics) {}

void EventWatch::Register(rpc::ServiceRegistry* registry) {
  registry->streams["/vlm.v1.JobService/WatchEvents"] =
      [this](const rpc::CallContext&, std::shared_ptr<rpc::Stream> stream) -> std::shared_ptr<rpc::StreamReceiver> {
    return std::make_shared<Receiver>(this, next_id_++, std::move(stream));
  };
}

void EventWatch::Start() {
  thread_->PostAfter(options_.tick, [this] { Tick(); });
}

void EventWatch::OnEvents(const std::vector<v1::Event>& events) {
  std::set<std::string> jobs;
  for (const v1::Event& event : events) jobs.insert(event.job_id());
  thread_->Post([this, jobs = std::move(jobs)] {
    std::vector<uint64_t> due;
    for (const auto& [id, watcher] : watchers_) {
      if (watcher.job.empty() || jobs.contains(watcher.job)) due.push_back(id);
    }
    for (const uint64_t id : due) Pump(id);
  });
}

std::string EventWatch::Cursor(uint64_t sequence) const { return options_.store_uuid + EncodeU64(sequence); }

absl::Status EventWatch::Check(const v1::WatchEventsRequest& request, uint64_t* last) const {
  if (watchers_.size() >= options_.watchers_max) {
    return absl::ResourceExhaustedError(absl::StrCat("too many watchers; end some first: ", watchers_.size()));
  }
  if (!request.job_id().empty()) {
    VLM_ASSIGN_OR_RETURN(const std::optional<std::string> job, store_->Get(kJobFamily, request.job_id()));
    if (!job.has_value()) {
      return absl::NotFoundError(absl::StrCat("no such job; `vlmctl list` shows them: ", request.job_id()));
    }
  }
  *last = 0;
  if (request.cursor().empty()) return absl::OkStatus();
  if (request.cursor().size() != kStoreUuidBytes + 8) {
    return absl::InvalidArgumentError("not a cursor of this service: use one from a WatchEvents answer, or none");
  }
  *last = DecodeU64(request.cursor());
  if (!request.cursor().starts_with(options_.store_uuid)) {
    return absl::FailedPreconditionError(
        "the cursor is of another coordinator's store; list the jobs again and watch without a cursor");
  }
  VLM_ASSIGN_OR_RETURN(const std::optional<std::string> seen, store_->Get(kEventFamily, EventKey(*last)));
  if (*last != 0 && !seen.has_value()) {
    return absl::FailedPreconditionError(
        "the cursor is ahead of the store, which was restored from a backup; list the jobs again");
  }
  return absl::OkStatus();
}

void EventWatch::Begin(uint64_t id, std::shared_ptr<rpc::Stream> stream, const v1::WatchEventsRequest& request) {
  uint64_t last = 0;
  if (const absl::Status status = Check(request, &last); !status.ok()) {
    stream->Close(status);
    return;
  }
  Watcher& watcher = watchers_[id];
  watcher.stream = std::move(stream);
  watcher.job = request.job_id();
  watcher.last = last;
  metrics_->WatchersChanged(1);
  Pump(id);
}

void EventWatch::End(uint64_t id, const absl::Status& status) {
  const auto ended = watchers_.extract(id);
  if (ended.empty()) return;
  ended.mapped().stream->Close(status);
  metrics_->WatchersChanged(-1);
}

// A store keeps events in order of sequence, and a batch is told of only once it is in the store: what a scan
// finds is all there is up to its last row.
absl::StatusOr<std::vector<v1::Event>> EventWatch::Next(const Watcher& watcher) const {
  std::vector<v1::Event> events;
  if (watcher.job.empty()) {
    VLM_RETURN_IF_ERROR(store_->ScanFrom(kEventFamily, "", EventKey(watcher.last + 1),
                                         [&events](std::string_view, std::string_view value) {
                                           events.emplace_back().ParseFromString(std::string(value));
                                           return events.size() < kEventsPerPass;
                                         }));
    return events;
  }
  std::vector<uint64_t> sequences;
  VLM_RETURN_IF_ERROR(store_->ScanFrom(kJobEventFamily, JobEventPrefix(watcher.job),
                                       JobEventKey(watcher.job, watcher.last + 1),
                                       [&sequences](std::string_view key, std::string_view) {
                                         sequences.push_back(DecodeU64(key));
                                         return sequences.size() < kEventsPerPass;
                                       }));
  for (const uint64_t sequence : sequences) {
    VLM_ASSIGN_OR_RETURN(const std::optional<std::string> row, store_->Get(kEventFamily, EventKey(sequence)));
    if (!row.has_value() || !events.emplace_back().ParseFromString(*row)) {
      return absl::DataLossError(absl::StrCat("an event is missing in the store: ", sequence));
    }
  }
  return events;
}

bool EventWatch::Send(Watcher* watcher, v1::WatchEventsResponse response) const {
  response.set_cursor(Cursor(watcher->last));
  return watcher->stream->Send(response.SerializeAsString());
}

void EventWatch::Pump(uint64_t id) {
  const auto it = watchers_.find(id);
  if (it == watchers_.end()) return;
  Watcher& watcher = it->second;
  absl::StatusOr<std::vector<v1::Event>> events = Next(watcher);
  if (!events.ok()) {
    End(id, events.status());
    return;
  }
  for (v1::Event& event : *events) {
    const uint64_t before = watcher.last;
    watcher.last = event.sequence();
    v1::WatchEventsResponse response;
    response.set_stage(event.stage());
    *response.mutable_event() = std::move(event);
    if (!Send(&watcher, std::move(response))) {
      watcher.last = before;  // the tick tries again
      watcher.caught_up = false;
      return;
    }
    watcher.took = true;
  }
  if (events->size() == kEventsPerPass) {
    watcher.caught_up = false;
    thread_->Post([this, id] { Pump(id); });
  } else if (!watcher.caught_up) {
    watcher.caught_up = SendHeartbeat(&watcher);
  }
}

bool EventWatch::SendHeartbeat(Watcher* watcher) const {
  v1::WatchEventsResponse response;
  response.mutable_heartbeat();
  return Send(watcher, std::move(response));
}

void EventWatch::Tick() {
  std::vector<uint64_t> ids;
  for (const auto& [id, watcher] : watchers_) ids.push_back(id);
  for (const uint64_t id : ids) Pump(id);
  AskProgress();
  since_heartbeat_ += options_.tick;
  if (since_heartbeat_ >= options_.heartbeat) {
    since_heartbeat_ = absl::ZeroDuration();
    SendHeartbeats();
  }
  thread_->PostAfter(options_.tick, [this] { Tick(); });
}

void EventWatch::SendHeartbeats() {
  std::vector<uint64_t> gone;
  for (auto& [id, watcher] : watchers_) {
    const bool took = watcher.caught_up ? SendHeartbeat(&watcher) : watcher.took;
    watcher.took = false;
    watcher.refused = took ? 0 : watcher.refused + 1;
    if (watcher.refused > kRefusedMax) gone.push_back(id);
  }
  for (const uint64_t id : gone) End(id, absl::ResourceExhaustedError("the client does not read its events"));
}

void EventWatch::AskProgress() {
  std::set<std::string> jobs;
  for (const auto& [id, watcher] : watchers_) {
    if (!watcher.job.empty()) jobs.insert(watcher.job);
  }
  for (const std::string& job : jobs) {
    auto view = std::make_shared<absl::StatusOr<v1::Job>>();
    // When the queue is full, progress is what can wait.
    loop_
        ->Read([view, job](const Coordinator& core) { *view = core.GetJob(job); },
               [this, view] {
                 if (view->ok()) thread_->Post([this, view] { SendProgress(**view); });
               })
        .IgnoreError();
  }
}

void EventWatch::SendProgress(const v1::Job& job) {
  for (const v1::Stage& stage : job.stages()) {
    if (stage.state() != v1::STAGE_STATE_ACTIVE) continue;
    const std::string bytes = stage.progress().SerializeAsString();
    for (auto& [id, watcher] : watchers_) {
      if (watcher.job != job.job_id() || !watcher.caught_up || watcher.progress[stage.name()] == bytes) continue;
      v1::WatchEventsResponse response;
      response.set_stage(stage.name());
      *response.mutable_progress() = stage.progress();
      if (Send(&watcher, std::move(response))) watcher.progress[stage.name()] = bytes;
    }
  }
}

}  // namespace vlm::coordinator
