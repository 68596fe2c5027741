#include "coordinator/worker_service.h"

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vlm::coordinator {

class WorkerService::SessionReceiver final : public rpc::StreamReceiver {
 public:
  SessionReceiver(WorkerService* service, uint64_t session) : service_(service), session_(session) {}
  void OnMessage(std::string message) override { service_->OnSessionMessage(session_, std::move(message)); }
  void OnClosed(absl::Status) override { service_->OnSessionClosed(session_); }

 private:
  WorkerService* const service_;
  const uint64_t session_;
};

// A stream begins with the credit of Welcome; more is granted for what has been handled, so that a worker never has
// more under way than the store can take.
class WorkerService::TelemetryReceiver final : public rpc::StreamReceiver {
 public:
  TelemetryReceiver(TelemetryStore* store, std::shared_ptr<rpc::Stream> stream)
      : store_(store), shared_(std::make_shared<Shared>()) {
    shared_->stream = std::move(stream);
  }

  void OnMessage(std::string message) override {
    const size_t bytes = message.size();
    v1::ShipTelemetryRequest request;
    if (bytes > kTelemetryMessageBytesMax || !request.ParseFromString(message)) {
      shared_->stream->Close(absl::InvalidArgumentError(
          absl::StrCat("telemetry message does not parse or is above ", kTelemetryMessageBytesMax, " bytes: ", bytes)));
      return;
    }
    if (shared_->unhandled_bytes.fetch_add(bytes) > kTelemetryUnhandledBytesMax) {
      shared_->stream->Close(absl::ResourceExhaustedError("telemetry was sent without credit"));
      return;
    }
    store_->Store(std::move(request), [shared = shared_, bytes](const v1::LogAcknowledged* log) {
      shared->unhandled_bytes -= bytes;
      v1::ShipTelemetryResponse response;
      response.set_credit_bytes(bytes);
      if (log != nullptr) *response.add_logs() = *log;
      shared->stream->Send(response.SerializeAsString());
    });
  }
  void OnClosed(absl::Status) override { shared_->stream->Close(absl::OkStatus()); }

 private:
  struct Shared {
    std::shared_ptr<rpc::Stream> stream;
    std::atomic<uint64_t> unhandled_bytes = 0;
  };
  TelemetryStore* const store_;
  const std::shared_ptr<Shared> shared_;
};

WorkerService::WorkerService(DecisionLoop* loop, TelemetryStore* telemetry, CoordinatorMetrics* metrics)
    : loop_(loop), telemetry_(telemetry), metrics_(metrics) {}
WorkerService::~WorkerService() = default;

void WorkerService::Register(rpc::ServiceRegistry* registry) {
  registry->streams["/vlm.v1.WorkerService/Session"] =
      [this](const rpc::CallContext&, std::shared_ptr<rpc::Stream> stream) { return OpenSession(std::move(stream)); };
  registry->streams["/vlm.v1.WorkerService/ShipTelemetry"] =
      [this](const rpc::CallContext&, std::shared_ptr<rpc::Stream> stream) -> std::shared_ptr<rpc::StreamReceiver> {
    return std::make_shared<TelemetryReceiver>(telemetry_, std::move(stream));
  };
}

std::shared_ptr<rpc::StreamReceiver> WorkerService::OpenSession(std::shared_ptr<rpc::Stream> stream) {
  MutexLock lock(&mutex_);
  const uint64_t session = next_session_++;
  sessions_[session] = std::move(stream);
  metrics_->SessionsChanged(sessions_.size());
  return std::make_shared<SessionReceiver>(this, session);
}

std::shared_ptr<rpc::Stream> WorkerService::Take(uint64_t session) {
  MutexLock lock(&mutex_);
  auto taken = sessions_.extract(session);
  metrics_->SessionsChanged(sessions_.size());
  return taken.empty() ? nullptr : std::move(taken.mapped());
}

void WorkerService::OnSessionMessage(uint64_t session, std::string bytes) {
  FromWorker input{session, {}};
  if (bytes.size() > kSessionMessageBytesMax || !input.message.ParseFromString(bytes)) {
    Break(session, absl::InvalidArgumentError(absl::StrCat("session message does not parse or is above ",
                                                           kSessionMessageBytesMax, " bytes: ", bytes.size())));
    return;
  }
  if (input.message.has_beat()) metrics_->Beat();
  if (!loop_->FromSession(std::move(input))) {
    Break(session, absl::ResourceExhaustedError("the coordinator has too many messages waiting; connect again"));
  }
}

void WorkerService::OnSessionClosed(uint64_t session) {
  // A session that was closed from here is not told of again.
  if (const std::shared_ptr<rpc::Stream> stream = Take(session)) {
    stream->Close(absl::OkStatus());
    loop_->Tell(SessionClosed{session});
  }
}

void WorkerService::Break(uint64_t session, const absl::Status& status) {
  if (const std::shared_ptr<rpc::Stream> stream = Take(session)) {
    stream->Close(status);
    loop_->Tell(SessionClosed{session});
  }
}

void WorkerService::Perform(const SendToWorker& effect) {
  std::shared_ptr<rpc::Stream> stream;
  {
    MutexLock lock(&mutex_);
    const auto it = sessions_.find(effect.session);
    if (it == sessions_.end()) return;
    stream = it->second;
  }
  if (!stream->Send(effect.message.SerializeAsString())) {
    Break(effect.session, absl::ResourceExhaustedError("the worker does not read its messages; connect again"));
  }
}

void WorkerService::Perform(const CloseSession& effect) {
  if (const std::shared_ptr<rpc::Stream> stream = Take(effect.session)) stream->Close(effect.status);
}

}  // namespace vlm::coordinator
