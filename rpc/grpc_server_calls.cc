#include "rpc/grpc_server_calls.h"

#include <grpcpp/alarm.h>

#include <chrono>
#include <deque>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "rpc/answer.h"
#include "rpc/grpc_convert.h"

namespace vlm::rpc {
namespace {

// A client's half-close and a broken connection both look like a failed read. What tells them apart, OnCancel, follows
// a break from another thread and never a half-close alone, so there is no event that confirms a half-close: only
// after this time without OnCancel is the end taken for one.
//
// What can be misread: a break whose OnCancel is held up for longer (a starved machine) reaches the receiver as
// OnClosed(OK) instead of CANCELLED, and nothing follows. The other way round cannot happen. This is harmless because
// no receiver may take OK for more than "no further messages": sessions, Attach and telemetry end their stream on any
// OnClosed, and a receiver that goes on sending finds the break, as it must for a client that vanishes after a real
// half-close, by Send answering false from OnCancel on (a watch gives up after refused heartbeats, a log's tail when
// bytes stay untaken or the attempt is over; both are bounded in number).
constexpr absl::Duration kHalfCloseDoubt = absl::Milliseconds(20);

CallContext ContextOf(const grpc::GenericCallbackServerContext& context) {
  CallContext result;
  for (const auto& [key, value] : context.client_metadata()) {
    result.metadata.emplace(std::string(key.data(), key.size()), std::string(value.data(), value.size()));
  }
  result.metadata.erase("vlm-role");  // given by RequireToken only
  const auto deadline = context.deadline();
  result.deadline = deadline == std::chrono::system_clock::time_point::max()
                        ? absl::InfiniteDuration()
                        : absl::FromChrono(deadline) - RealClock()->Wall();
  result.peer = context.peer();
  return result;
}

class UnaryReactor final : public grpc::ServerGenericBidiReactor, public ServerCall {
 public:
  UnaryReactor(grpc::GenericCallbackServerContext* context, const UnaryHandler& handler, OpenServerCalls* open)
      : context_(ContextOf(*context)), handler_(handler), open_(open) {}

  void Begin(std::shared_ptr<UnaryReactor> self) {
    self_ = std::move(self);
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      Answer(absl::CancelledError("the request was not received whole"));
      return;
    }
    // A handler may answer long after OnDone of a cancelled call: it holds the reactor's memory, no more.
    handler_(context_, FromByteBuffer(request_),
             AnswerOnce([self = self_](absl::StatusOr<std::string> answer) { self->Answer(std::move(answer)); }));
  }

  void OnCancel() override { Answer(absl::CancelledError("the client cancelled the call")); }
  void Abort(const absl::Status& status) override { Answer(status); }

  void OnDone() override {
    const std::shared_ptr<UnaryReactor> self = std::move(self_);
    open_->Remove(self);
  }

 private:
  void Answer(absl::StatusOr<std::string> answer) {
    {
      MutexLock lock(&mutex_);
      if (answered_) return;
      answered_ = true;
    }
    if (!answer.ok()) {
      Finish(ToGrpc(answer.status()));
      return;
    }
    response_ = ToByteBuffer(*answer);
    StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
  }

  const CallContext context_;
  const UnaryHandler& handler_;
  OpenServerCalls* const open_;
  std::shared_ptr<UnaryReactor> self_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
  Mutex mutex_;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;
};

class StreamReactor final : public grpc::ServerGenericBidiReactor, public ServerCall {
 public:
  StreamReactor(grpc::GenericCallbackServerContext* context, OpenServerCalls* open) : context_(context), open_(open) {}

  void Begin(std::shared_ptr<StreamReactor> self, std::shared_ptr<StreamReceiver> receiver) {
    self_ = std::move(self);
    receiver_ = std::move(receiver);
    StartRead(&incoming_);
  }

  bool Send(std::string message) {
    {
      MutexLock lock(&mutex_);
      if (ending_ || waiting_.size() >= kStreamQueueMax) return false;
      waiting_.push_back(std::move(message));
    }
    Pump();
    return true;
  }

  // Ends the stream after what was sent.
  void End(const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      if (ending_) return;
      ending_ = status;
    }
    Pump();
  }

  // Ends the stream now; what waits is dropped.
  void Abort(const absl::Status& status) override {
    {
      MutexLock lock(&mutex_);
      if (finished_) return;
      ending_ = status;
      waiting_.clear();
      broken_ = true;
    }
    Pump();
  }

  // The handler dropped its side without closing it.
  void Drop() {
    {
      MutexLock lock(&mutex_);
      if (ending_) return;
    }
    Abort(absl::CancelledError("the server dropped the stream"));
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      receiver_->OnMessage(FromByteBuffer(incoming_));
      StartRead(&incoming_);
      return;
    }
    MutexLock lock(&mutex_);
    if (finished_ || ending_ || broken_) return;  // OnDone tells the receiver
    half_close_doubt_ = std::make_unique<grpc::Alarm>();
    half_close_doubt_->Set(absl::ToChronoTime(RealClock()->Wall() + kHalfCloseDoubt), [self = self_](bool due) {
      if (due) self->TellHalfClosed();
    });
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(&mutex_);
      writing_ = false;
    }
    if (ok) {
      Pump();
    } else {
      Abort(absl::CancelledError("the connection broke"));
    }
  }

  void OnCancel() override { Abort(absl::CancelledError("the connection broke, or the client cancelled")); }

  void OnDone() override {
    const std::shared_ptr<StreamReactor> self = std::move(self_);
    std::unique_ptr<grpc::Alarm> alarm;
    std::shared_ptr<StreamReceiver> receiver;
    bool broken;
    {
      MutexLock lock(&mutex_);
      alarm = std::move(half_close_doubt_);
      receiver = std::move(receiver_);
      broken = broken_;
    }
    if (receiver != nullptr) {
      receiver->OnClosed(broken ? absl::CancelledError("the stream's connection ended") : absl::OkStatus());
    }
    open_->Remove(self);
  }

 private:
  void TellHalfClosed() {
    std::shared_ptr<StreamReceiver> receiver;
    {
      MutexLock lock(&mutex_);
      if (finished_ || broken_ || context_->IsCancelled()) return;
      receiver = std::move(receiver_);
    }
    if (receiver != nullptr) receiver->OnClosed(absl::OkStatus());
  }

  void Pump() {
    std::optional<absl::Status> finish;
    {
      MutexLock lock(&mutex_);
      if (writing_ || finished_) return;
      if (!waiting_.empty()) {
        writing_ = true;
        outgoing_ = ToByteBuffer(waiting_.front());
        waiting_.pop_front();
      } else if (ending_) {
        finished_ = true;
        finish = ending_;
      } else {
        return;
      }
    }
    if (finish) {
      Finish(ToGrpc(*finish));
    } else {
      StartWrite(&outgoing_);
    }
  }

  grpc::GenericCallbackServerContext* const context_;  // valid until OnDone
  OpenServerCalls* const open_;
  std::shared_ptr<StreamReactor> self_;
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;  // owned by gRPC while writing_
  Mutex mutex_;
  std::shared_ptr<StreamReceiver> receiver_;  // changed under the lock, called without it
  std::deque<std::string> waiting_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> ending_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<grpc::Alarm> half_close_doubt_ ABSL_GUARDED_BY(mutex_);
};

class ServerStream final : public Stream {
 public:
  explicit ServerStream(std::shared_ptr<StreamReactor> reactor) : reactor_(std::move(reactor)) {}
  ~ServerStream() override { reactor_->Drop(); }
  bool Send(std::string message) override { return reactor_->Send(std::move(message)); }
  void Close(absl::Status status) override { reactor_->End(status); }

 private:
  const std::shared_ptr<StreamReactor> reactor_;
};

class RefusingReactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit RefusingReactor(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

bool OpenServerCalls::Add(std::shared_ptr<ServerCall> call) {
  MutexLock lock(&mutex_);
  if (draining_) return false;
  calls_.insert(std::move(call));
  return true;
}

void OpenServerCalls::Remove(const std::shared_ptr<ServerCall>& call) {
  MutexLock lock(&mutex_);
  calls_.erase(call);
  changed_.NotifyAll();
}

void OpenServerCalls::Drain(absl::Duration grace) {
  const absl::Duration end = RealClock()->Monotonic() + grace;
  std::set<std::shared_ptr<ServerCall>> left;
  {
    MutexLock lock(&mutex_);
    draining_ = true;
    while (!calls_.empty()) {
      const absl::Duration wait = end - RealClock()->Monotonic();
      if (wait <= absl::ZeroDuration()) break;
      changed_.WaitFor(&mutex_, wait);
    }
    left = calls_;
  }
  for (const std::shared_ptr<ServerCall>& call : left) call->Abort(absl::UnavailableError("the server shuts down"));
}

grpc::ServerGenericBidiReactor* StartUnary(grpc::GenericCallbackServerContext* context, const UnaryHandler& handler,
                                           OpenServerCalls* open) {
  auto reactor = std::make_shared<UnaryReactor>(context, handler, open);
  if (!open->Add(reactor)) return Refuse(absl::UnavailableError("the server shuts down"));
  UnaryReactor* const raw = reactor.get();
  raw->Begin(std::move(reactor));
  return raw;
}

grpc::ServerGenericBidiReactor* StartStream(grpc::GenericCallbackServerContext* context, const StreamHandler& handler,
                                            OpenServerCalls* open) {
  auto reactor = std::make_shared<StreamReactor>(context, open);
  if (!open->Add(reactor)) return Refuse(absl::UnavailableError("the server shuts down"));
  StreamReactor* const raw = reactor.get();
  std::shared_ptr<StreamReceiver> receiver = handler(ContextOf(*context), std::make_shared<ServerStream>(reactor));
  raw->Begin(std::move(reactor), std::move(receiver));
  return raw;
}

grpc::ServerGenericBidiReactor* Refuse(const absl::Status& status) { return new RefusingReactor(status); }

}  // namespace vlm::rpc
