#include "coordinator/log_tail.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace vlm::coordinator {
namespace {

constexpr size_t kPieceBytesMax = 64u << 10;
constexpr int kPiecesPerPass = 16;  // then logs that arrive get their turn
constexpr absl::Duration kUnreadMax = absl::Seconds(30);

const v1::Stage* FindStage(const v1::Job& job, const std::string& name) {
  for (const v1::Stage& stage : job.stages()) {
    if (stage.name() == name) return &stage;
  }
  return nullptr;
}

bool IsFinalState(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED;
}

}  // namespace

class LogTail::Receiver final : public rpc::StreamReceiver {
 public:
  Receiver(LogTail* tail, uint64_t id, std::shared_ptr<rpc::Stream> stream)
      : tail_(tail), id_(id), stream_(std::move(stream)) {}

  void OnMessage(std::string message) override {
    v1::TailLogsRequest request;
    const bool parsed = request.ParseFromString(message);
    tail_->store_->thread()->Post([tail = tail_, id = id_, stream = std::move(stream_), request, parsed] {
      if (stream == nullptr || !parsed) {
        if (stream != nullptr) stream->Close(absl::InvalidArgumentError("the request does not parse"));
        tail->End(id, absl::InvalidArgumentError("TailLogs takes one request"));
      } else {
        tail->Begin(id, stream, request);
      }
    });
  }
  void OnClosed(absl::Status status) override {
    if (status.ok()) return;  // the client has said all it wants to say, and goes on reading
    tail_->store_->thread()->Post([tail = tail_, id = id_, status] { tail->End(id, status); });
  }

 private:
  LogTail* const tail_;
  const uint64_t id_;
  std::shared_ptr<rpc::Stream> stream_;
};

LogTail::LogTail(LogTailOptions options, TelemetryStore* store, DecisionLoop* loop, const Clock* clock,
                 CoordinatorMetrics* metrics)
    : options_(options), store_(store), loop_(loop), clock_(clock), metrics_(metrics) {}

void LogTail::Register(rpc::ServiceRegistry* registry) {
  registry->streams["/vlm.v1.JobService/TailLogs"] =
      [this](const rpc::CallContext&, std::shared_ptr<rpc::Stream> stream) -> std::shared_ptr<rpc::StreamReceiver> {
    return std::make_shared<Receiver>(this, next_id_++, std::move(stream));
  };
}

void LogTail::Start() {
  store_->thread()->PostAfter(options_.tick, [this] { Tick(); });
}

void LogTail::Begin(uint64_t id, std::shared_ptr<rpc::Stream> stream, const v1::TailLogsRequest& request) {
  if (tails_.size() >= options_.tails_max) {
    stream->Close(absl::ResourceExhaustedError(absl::StrCat("too many logs are followed; end some: ", tails_.size())));
    return;
  }
  Tail& tail = tails_[id];
  tail.stream = std::move(stream);
  tail.key = {request.job_id(), request.stage(), request.fence(), request.rank()};
  tail.offset = request.offset();
  tail.follow = request.follow();
  tail.moved = tail.taken = clock_->Monotonic();
  metrics_->WatchersChanged(1);
  AskStage(id, tail.key.job, tail.key.stage);
}

void LogTail::AskStage(uint64_t id, const std::string& job, const std::string& stage) {
  auto view = std::make_shared<absl::StatusOr<v1::Job>>();
  const absl::Status queued =
      loop_->Read([view, job](const Coordinator& core) { *view = core.GetJob(job); },
                  [this, view, id] { store_->thread()->Post([this, view, id] { OnStage(id, *view); }); });
  if (!queued.ok() && !tails_[id].follow) End(id, queued);
}

void LogTail::OnStage(uint64_t id, const absl::StatusOr<v1::Job>& job) {
  const auto it = tails_.find(id);
  if (it == tails_.end()) return;
  Tail& tail = it->second;
  if (!job.ok()) return End(id, job.status());
  const v1::Stage* stage = FindStage(*job, tail.key.stage);
  if (stage == nullptr) {
    return End(id, absl::NotFoundError(absl::StrCat("job ", tail.key.job, " has no stage: ", tail.key.stage)));
  }
  if (tail.key.fence == 0) tail.key.fence = stage->fence();
  if (tail.key.fence == 0 && (!tail.follow || IsFinalState(job->state()))) {
    return End(id, absl::NotFoundError(absl::StrCat("stage has not run yet: ", tail.key.job, "/", tail.key.stage)));
  }
  if (tail.key.fence == 0) tail.taken = clock_->Monotonic();  // waits for the first attempt
  const bool over = stage->fence() > tail.key.fence || stage->state() != v1::STAGE_STATE_ACTIVE;
  if (over && tail.key.fence != 0 && !tail.attempt_over) {
    tail.attempt_over = true;
    tail.moved = clock_->Monotonic();
  }
  Pump(id);
}

void LogTail::OnLog(const LogKey& key) {
  std::vector<uint64_t> due;
  for (const auto& [id, tail] : tails_) {
    if (tail.key == key) due.push_back(id);
  }
  for (const uint64_t id : due) Pump(id);
}

void LogTail::Pump(uint64_t id) {
  const auto it = tails_.find(id);
  if (it == tails_.end() || it->second.key.fence == 0) return;
  Tail& tail = it->second;
  const absl::Duration now = clock_->Monotonic();
  for (int i = 0; i < kPiecesPerPass; ++i) {
    const absl::StatusOr<LogStore::Piece> piece = store_->logs()->Read(tail.key, tail.offset, kPieceBytesMax);
    const bool missing = absl::IsNotFound(piece.status());
    if (!piece.ok() && !(missing && tail.follow)) return End(id, piece.status());
    if (missing || (piece->data.empty() && piece->dropped == 0)) {
      tail.taken = now;
      if (!tail.follow || (tail.attempt_over && now - tail.moved >= options_.settled_after)) {
        End(id, absl::OkStatus());
      }
      return;
    }
    v1::TailLogsResponse response;
    response.set_offset(piece->offset);
    response.set_data(piece->data);
    response.set_dropped_bytes(piece->dropped);
    if (!tail.stream->Send(response.SerializeAsString())) return;  // the tick tries again
    tail.offset = piece->offset + piece->data.size();
    tail.moved = tail.taken = now;
  }
  store_->thread()->Post([this, id] { Pump(id); });
}

void LogTail::End(uint64_t id, const absl::Status& status) {
  const auto ended = tails_.extract(id);
  if (ended.empty()) return;
  ended.mapped().stream->Close(status);
  metrics_->WatchersChanged(-1);
}

void LogTail::Tick() {
  std::vector<uint64_t> ids;
  for (const auto& [id, tail] : tails_) ids.push_back(id);
  for (const uint64_t id : ids) {
    const Tail& tail = tails_.at(id);
    if (clock_->Monotonic() - tail.taken > kUnreadMax) {
      End(id, absl::ResourceExhaustedError("the client does not read the log"));
    } else {
      AskStage(id, tail.key.job, tail.key.stage);
    }
  }
  store_->thread()->PostAfter(options_.tick, [this] { Tick(); });
}

}  // namespace vlm::coordinator
