#include "rpc/grpc_channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <deque>
#include <set>
#include <utility>

#include "base/clock.h"
#include "base/mutex.h"
#include "rpc/address.h"
#include "rpc/grpc_convert.h"
#include "rpc/grpc_threads.h"

namespace vlm::rpc {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(5);

// What a channel has open, so that its destruction can cancel it.
class OpenCalls {
 public:
  void Add(grpc::ClientContext* context) {
    MutexLock lock(&mutex_);
    contexts_.insert(context);
    if (closed_) context->TryCancel();
  }
  // True when the channel is gone, so that a call may have been cancelled from this side.
  bool Remove(grpc::ClientContext* context) {
    MutexLock lock(&mutex_);
    contexts_.erase(context);
    return closed_;
  }
  void CancelAll() {
    MutexLock lock(&mutex_);
    closed_ = true;
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
  }

 private:
  Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
};

void FillContext(grpc::ClientContext* context, const Metadata& shared, const CallOptions& options) {
  context->set_wait_for_ready(options.wait_for_ready);
  for (const auto& [key, value] : shared) {
    if (!options.metadata.contains(key)) context->AddMetadata(key, value);
  }
  for (const auto& [key, value] : options.metadata) context->AddMetadata(key, value);
}

struct UnaryCall {
  grpc::ClientContext context;
  grpc::ByteBuffer request;
  grpc::ByteBuffer response;
};

// The client's half of one stream. Alive until OnDone; the Stream handed out refers to it.
class ClientCall final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  ClientCall(std::shared_ptr<OpenCalls> open, std::shared_ptr<StreamReceiver> receiver)
      : open_(std::move(open)), receiver_(std::move(receiver)) {}

  grpc::ClientContext* context() { return &context_; }

  void Begin(std::shared_ptr<ClientCall> self) {
    self_ = std::move(self);
    open_->Add(&context_);
    AddHold();  // writes start outside of reactions
    StartRead(&incoming_);
    StartCall();
  }

  bool Send(std::string message) {
    {
      MutexLock lock(&mutex_);
      if (ended_ || half_closed_ || waiting_.size() >= kStreamQueueMax) return false;
      waiting_.push_back(std::move(message));
    }
    Pump();
    return true;
  }

  void HalfClose() {
    {
      MutexLock lock(&mutex_);
      if (ended_ || half_closed_) return;
      half_closed_ = true;
    }
    Pump();
  }

  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (ok) {
      receiver_->OnMessage(FromByteBuffer(incoming_));
      StartRead(&incoming_);
      return;
    }
    {
      MutexLock lock(&mutex_);
      ended_ = true;
      waiting_.clear();
    }
    Pump();
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) {
        ended_ = true;
        waiting_.clear();
      }
    }
    Pump();
  }

  void OnWritesDoneDone(bool ok) override { OnWriteDone(ok); }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<ClientCall> self = std::move(self_);
    open_->Remove(&context_);
    {
      MutexLock lock(&mutex_);
      ended_ = true;
    }
    receiver_->OnClosed(FromGrpc(status));
    receiver_.reset();
  }

 private:
  // Starts what comes next. The decision is made under the lock, the operation outside: gRPC may run a
  // completion on the calling thread.
  void Pump() {
    enum { kNothing, kWrite, kHalfClose, kRelease } next = kNothing;
    {
      MutexLock lock(&mutex_);
      if (writing_ || released_) return;
      if (ended_) {
        next = kRelease;
        released_ = true;
      } else if (!waiting_.empty()) {
        next = kWrite;
        writing_ = true;
        outgoing_ = ToByteBuffer(waiting_.front());
        waiting_.pop_front();
      } else if (half_closed_ && !half_close_sent_) {
        next = kHalfClose;
        writing_ = half_close_sent_ = true;
      }
    }
    if (next == kWrite) StartWrite(&outgoing_);
    if (next == kHalfClose) StartWritesDone();
    if (next == kRelease) RemoveHold();
  }

  const std::shared_ptr<OpenCalls> open_;
  std::shared_ptr<StreamReceiver> receiver_;
  std::shared_ptr<ClientCall> self_;
  grpc::ClientContext context_;
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;  // owned by gRPC while writing_
  Mutex mutex_;
  std::deque<std::string> waiting_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool half_close_sent_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
};

class ClientStream final : public Stream {
 public:
  explicit ClientStream(std::shared_ptr<ClientCall> call) : call_(std::move(call)) {}
  ~ClientStream() override { call_->Cancel(); }
  bool Send(std::string message) override { return call_->Send(std::move(message)); }
  void Close(absl::Status) override { call_->HalfClose(); }

 private:
  const std::shared_ptr<ClientCall> call_;
};

class GrpcChannel final : public Channel {
 public:
  GrpcChannel(std::shared_ptr<grpc::Channel> channel, Metadata metadata)
      : stub_(std::move(channel)), metadata_(std::move(metadata)) {}
  ~GrpcChannel() override { open_->CancelAll(); }

  void Call(std::string_view method, std::string request, const CallOptions& options, Done done) override {
    const auto call = std::make_shared<UnaryCall>();
    FillContext(&call->context, metadata_, options);
    if (options.deadline != absl::InfiniteDuration()) {
      call->context.set_deadline(absl::ToChronoTime(RealClock()->Wall() + options.deadline));
    }
    call->request = ToByteBuffer(request);
    open_->Add(&call->context);
    stub_.UnaryCall(&call->context, std::string(method), grpc::StubOptions(), &call->request, &call->response,
                    [call, open = open_, done = std::move(done)](const grpc::Status& status) {
                      const bool ours = open->Remove(&call->context);
                      if (status.ok()) {
                        done(FromByteBuffer(call->response));
                      } else if (status.error_code() == grpc::StatusCode::CANCELLED && !ours) {
                        // So gRPC ends what it has accepted and not begun when its server stops: no handler has seen
                        // the call, or none has answered.
                        done(absl::UnavailableError("the server stopped in the middle of the call"));
                      } else {
                        done(FromGrpc(status));
                      }
                    });
  }

  std::unique_ptr<Stream> Open(std::string_view method, const CallOptions& options,
                               std::shared_ptr<StreamReceiver> receiver) override {
    auto call = std::make_shared<ClientCall>(open_, std::move(receiver));
    FillContext(call->context(), metadata_, options);
    stub_.PrepareBidiStreamingCall(call->context(), std::string(method), grpc::StubOptions(), call.get());
    call->Begin(call);
    return std::make_unique<ClientStream>(std::move(call));
  }

 private:
  grpc::GenericStub stub_;
  const Metadata metadata_;
  const std::shared_ptr<OpenCalls> open_ = std::make_shared<OpenCalls>();
};

int Milliseconds(absl::Duration duration) { return static_cast<int>(absl::ToInt64Milliseconds(duration)); }

}  // namespace

absl::StatusOr<std::unique_ptr<Channel>> NewGrpcChannel(const GrpcChannelOptions& options) {
  VLM_ASSIGN_OR_RETURN(const Address address, ParseAddress(options.address));
  if (address.socket_path.empty() && address.port == 0) {
    return absl::InvalidArgumentError("address to connect to has no port: '" + options.address + "'");
  }
  KeepGrpcThreads();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // else channels to one address share a connection
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, Milliseconds(options.reconnect_min));
  // In spite of its name, the least time one attempt to connect gets: a busy machine must not fail it.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, Milliseconds(kConnectTimeout));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, Milliseconds(options.reconnect_max));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_interval));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_timeout));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // an http_proxy in the environment must not see our calls
  arguments.SetMaxReceiveMessageSize(static_cast<int>(options.message_bytes_max));
  arguments.SetMaxSendMessageSize(static_cast<int>(options.message_bytes_max));
  return std::make_unique<GrpcChannel>(
      grpc::CreateCustomChannel(address.target, grpc::InsecureChannelCredentials(), arguments), options.metadata);
}

}  // namespace vlm::rpc
