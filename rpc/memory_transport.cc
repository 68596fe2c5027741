#include "rpc/memory_transport.h"

#include <set>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "rpc/answer.h"

namespace vlm::rpc {
namespace {

constexpr size_t kStreamQueueMax = 1024;  // rpc/channel.h names the number

absl::Status TooLarge(size_t bytes, size_t bytes_max) {
  return absl::ResourceExhaustedError("message is larger than the limit of " + std::to_string(bytes_max) +
                                      " bytes: " + std::to_string(bytes));
}

// One unary call. Ends once: by the answer, the deadline, or the end of the server.
class MemoryCall {
 public:
  MemoryCall(std::string method, std::string request, CallContext context, Channel::Done done)
      : method(std::move(method)), request(std::move(request)), context(std::move(context)), done_(std::move(done)) {}

  // Runs `done` on the calling thread unless the call has ended.
  void End(absl::StatusOr<std::string> answer) {
    Channel::Done done;
    {
      MutexLock lock(&mutex_);
      done = std::move(done_);
      done_ = nullptr;
    }
    if (done) done(std::move(answer));
  }

  const std::string method;
  std::string request;
  const CallContext context;

 private:
  Mutex mutex_;
  Channel::Done done_ ABSL_GUARDED_BY(mutex_);
};

// Both sides of one stream.
class MemoryStreamPair : public std::enable_shared_from_this<MemoryStreamPair> {
 public:
  MemoryStreamPair(Executor* executor, const MemoryTransportOptions& options, std::shared_ptr<StreamReceiver> client)
      : executor_(executor), options_(options) {
    sides_[0].receiver = std::move(client);
  }

  // The server's receiver: what the client sent before it existed is delivered first.
  void Accept(const std::shared_ptr<StreamReceiver>& server) {
    std::vector<std::string> early;
    bool ended;
    absl::Status end;
    {
      MutexLock lock(&mutex_);
      accepted_ = true;
      ended = broken_ || early_end_;
      end = broken_ ? absl::CancelledError("the client cancelled the stream") : absl::OkStatus();
      early.swap(early_);
      sides_[0].in_flight -= early.size();
      if (!ended) sides_[1].receiver = server;
    }
    for (std::string& message : early) server->OnMessage(std::move(message));
    if (ended) server->OnClosed(end);
  }

  // `from`: 0 the client, 1 the server.
  bool Send(int from, std::string message) {
    const size_t bytes = message.size();
    {
      MutexLock lock(&mutex_);
      if (broken_ || sides_[from].closed || sides_[from].in_flight >= kStreamQueueMax) return false;
      ++sides_[from].in_flight;
    }
    if (bytes > options_.message_bytes_max) {
      Break(TooLarge(bytes, options_.message_bytes_max), absl::CancelledError("the stream was broken"));
      return true;
    }
    executor_->PostAfter(options_.latency, [self = shared_from_this(), from, message = std::move(message)]() mutable {
      self->Deliver(from, std::move(message));
    });
    return true;
  }

  // The client's half-close.
  void HalfClose() {
    {
      MutexLock lock(&mutex_);
      if (broken_ || sides_[0].closed) return;
      sides_[0].closed = true;
    }
    executor_->PostAfter(options_.latency, [self = shared_from_this()] { self->TellClosed(1, absl::OkStatus()); });
  }

  // The server's end of the stream, after what it sent.
  void End(const absl::Status& status) {
    {
      MutexLock lock(&mutex_);
      if (broken_ || sides_[1].closed) return;
      sides_[0].closed = sides_[1].closed = true;
    }
    executor_->PostAfter(options_.latency, [self = shared_from_this(), status] {
      self->TellClosed(0, status);
      self->TellClosed(1, absl::OkStatus());
    });
  }

  // Ends both sides; what is in flight is lost.
  void Break(const absl::Status& client, const absl::Status& server) {
    {
      MutexLock lock(&mutex_);
      if (broken_ || sides_[1].closed) return;
      broken_ = true;
    }
    executor_->Post([self = shared_from_this(), client, server] {
      self->TellClosed(0, client);
      self->TellClosed(1, server);
    });
  }

 private:
  struct Side {
    std::shared_ptr<StreamReceiver> receiver;  // null once told of the end
    bool closed = false;                       // sends no more
    size_t in_flight = 0;                      // sent by this side, not yet delivered
  };

  void Deliver(int from, std::string message) {
    std::shared_ptr<StreamReceiver> receiver;
    {
      MutexLock lock(&mutex_);
      if (from == 0 && !accepted_ && !broken_) {
        early_.push_back(std::move(message));  // still counts as in flight
        return;
      }
      --sides_[from].in_flight;
      if (broken_) return;
      receiver = sides_[1 - from].receiver;
    }
    if (receiver != nullptr) receiver->OnMessage(std::move(message));
  }

  void TellClosed(int side, const absl::Status& status) {
    std::shared_ptr<StreamReceiver> receiver;
    {
      MutexLock lock(&mutex_);
      if (side == 1 && !accepted_) early_end_ = true;
      receiver = std::move(sides_[side].receiver);
    }
    if (receiver != nullptr) receiver->OnClosed(status);
  }

  Executor* const executor_;
  const MemoryTransportOptions options_;
  Mutex mutex_;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool accepted_ ABSL_GUARDED_BY(mutex_) = false;           // the server's handler has run
  bool early_end_ ABSL_GUARDED_BY(mutex_) = false;          // the server's side ended before
  std::vector<std::string> early_ ABSL_GUARDED_BY(mutex_);  // at most kStreamQueueMax: they count as sent
  Side sides_[2] ABSL_GUARDED_BY(mutex_);
};

class MemoryClientStream final : public Stream {
 public:
  explicit MemoryClientStream(std::shared_ptr<MemoryStreamPair> pair) : pair_(std::move(pair)) {}
  ~MemoryClientStream() override {
    const absl::Status cancelled = absl::CancelledError("the client cancelled the stream");
    pair_->Break(cancelled, cancelled);
  }
  bool Send(std::string message) override { return pair_->Send(0, std::move(message)); }
  void Close(absl::Status) override { pair_->HalfClose(); }

 private:
  const std::shared_ptr<MemoryStreamPair> pair_;
};

class MemoryServerStream final : public Stream {
 public:
  explicit MemoryServerStream(std::shared_ptr<MemoryStreamPair> pair) : pair_(std::move(pair)) {}
  ~MemoryServerStream() override {
    const absl::Status cancelled = absl::CancelledError("the server dropped the stream");
    pair_->Break(cancelled, cancelled);
  }
  bool Send(std::string message) override { return pair_->Send(1, std::move(message)); }
  void Close(absl::Status status) override { pair_->End(status); }

 private:
  const std::shared_ptr<MemoryStreamPair> pair_;
};

}  // namespace

class MemoryTransport::Core : public std::enable_shared_from_this<MemoryTransport::Core> {
 public:
  Core(Executor* executor, MemoryTransportOptions options) : executor_(executor), options_(options) {}

  void Serve(ServiceRegistry registry) {
    Stop();
    std::vector<std::function<void()>> waiting;
    {
      MutexLock lock(&mutex_);
      registry_ = std::make_shared<const ServiceRegistry>(std::move(registry));
      waiting.swap(waiting_);
    }
    for (std::function<void()>& arrive : waiting) executor_->Post(std::move(arrive));
  }

  void Stop() {
    std::vector<std::weak_ptr<MemoryCall>> calls;
    std::vector<std::weak_ptr<MemoryStreamPair>> pairs;
    {
      MutexLock lock(&mutex_);
      registry_ = nullptr;
      calls.swap(calls_);
      pairs.swap(pairs_);
    }
    const absl::Status away = absl::UnavailableError("the server is away");
    for (const auto& weak : calls) {
      if (auto call = weak.lock()) executor_->Post([call, away] { call->End(away); });
    }
    for (const auto& weak : pairs) {
      if (auto pair = weak.lock()) pair->Break(away, absl::CancelledError("the server stopped"));
    }
  }

  void Call(std::shared_ptr<MemoryCall> call, const CallOptions& options) {
    if (options.deadline != absl::InfiniteDuration()) {
      executor_->PostAfter(options.deadline, [call] { call->End(absl::DeadlineExceededError("deadline exceeded")); });
    }
    if (call->request.size() > options_.message_bytes_max) {
      const size_t bytes = call->request.size();
      executor_->Post([call, bytes, limit = options_.message_bytes_max] { call->End(TooLarge(bytes, limit)); });
      return;
    }
    executor_->PostAfter(options_.latency, [self = shared_from_this(), call, wait = options.wait_for_ready] {
      self->Arrive(call, wait);
    });
  }

  void Open(std::string method, CallContext context, bool wait, std::shared_ptr<MemoryStreamPair> pair) {
    executor_->PostAfter(options_.latency,
                         [self = shared_from_this(), method = std::move(method), context = std::move(context), wait,
                          pair = std::move(pair)] { self->ArriveStream(method, context, wait, pair); });
  }

  Executor* executor() const { return executor_; }
  const MemoryTransportOptions& options() const { return options_; }

 private:
  void Arrive(const std::shared_ptr<MemoryCall>& call, bool wait) {
    std::shared_ptr<const ServiceRegistry> registry;
    {
      MutexLock lock(&mutex_);
      registry = registry_;
      if (registry == nullptr && wait) {
        waiting_.push_back([self = shared_from_this(), call] { self->Arrive(call, true); });
        return;
      }
      if (registry != nullptr) Remember(&calls_, call);
    }
    if (registry == nullptr) {
      call->End(absl::UnavailableError("the server is away"));
      return;
    }
    const auto handler = registry->unary.find(call->method);
    if (handler == registry->unary.end()) {
      call->End(absl::UnimplementedError("method is not served here: " + call->method));
      return;
    }
    handler->second(call->context, std::move(call->request),
                    AnswerOnce([self = shared_from_this(), call, registry](absl::StatusOr<std::string> answer) {
                      if (answer.ok() && answer->size() > self->options_.message_bytes_max) {
                        answer = TooLarge(answer->size(), self->options_.message_bytes_max);
                      }
                      self->executor_->PostAfter(self->options_.latency, [call, answer = std::move(answer)]() mutable {
                        call->End(std::move(answer));
                      });
                    }));
  }

  void ArriveStream(const std::string& method, const CallContext& context, bool wait,
                    const std::shared_ptr<MemoryStreamPair>& pair) {
    std::shared_ptr<const ServiceRegistry> registry;
    {
      MutexLock lock(&mutex_);
      registry = registry_;
      if (registry == nullptr && wait) {
        waiting_.push_back(
            [self = shared_from_this(), method, context, pair] { self->ArriveStream(method, context, true, pair); });
        return;
      }
      if (registry != nullptr) Remember(&pairs_, pair);
    }
    if (registry == nullptr) {
      pair->Break(absl::UnavailableError("the server is away"), absl::OkStatus());
      return;
    }
    const auto handler = registry->streams.find(method);
    if (handler == registry->streams.end()) {
      pair->Break(absl::UnimplementedError("method is not served here: " + method), absl::OkStatus());
      return;
    }
    pair->Accept(handler->second(context, std::make_shared<MemoryServerStream>(pair)));
  }

  // Keeps a weak reference, and drops those of what has ended when the list has doubled.
  template <typename T>
  static void Remember(std::vector<std::weak_ptr<T>>* list, const std::shared_ptr<T>& item) {
    if (list->size() == list->capacity()) std::erase_if(*list, [](const auto& weak) { return weak.expired(); });
    list->push_back(item);
  }

  Executor* const executor_;
  const MemoryTransportOptions options_;
  Mutex mutex_;
  std::shared_ptr<const ServiceRegistry> registry_ ABSL_GUARDED_BY(mutex_);  // null: not serving
  std::vector<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);       // arrivals that wait for Serve
  std::vector<std::weak_ptr<MemoryCall>> calls_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::weak_ptr<MemoryStreamPair>> pairs_ ABSL_GUARDED_BY(mutex_);
};

namespace {

template <typename Core>
class MemoryChannel final : public Channel {
 public:
  MemoryChannel(std::shared_ptr<Core> core, std::string peer, Metadata metadata)
      : core_(std::move(core)), peer_(std::move(peer)), metadata_(std::move(metadata)) {}

  ~MemoryChannel() override {
    const absl::Status cancelled = absl::CancelledError("the channel was destroyed");
    for (const auto& weak : calls_) {
      if (auto call = weak.lock()) core_->executor()->Post([call, cancelled] { call->End(cancelled); });
    }
    for (const auto& weak : pairs_) {
      if (auto pair = weak.lock()) pair->Break(cancelled, cancelled);
    }
  }

  void Call(std::string_view method, std::string request, const CallOptions& options, Done done) override {
    auto call = std::make_shared<MemoryCall>(std::string(method), std::move(request),
                                             Context(options, options.deadline), std::move(done));
    Remember(&calls_, call);
    core_->Call(std::move(call), options);
  }

  std::unique_ptr<Stream> Open(std::string_view method, const CallOptions& options,
                               std::shared_ptr<StreamReceiver> receiver) override {
    auto pair = std::make_shared<MemoryStreamPair>(core_->executor(), core_->options(), std::move(receiver));
    Remember(&pairs_, pair);
    core_->Open(std::string(method), Context(options, absl::InfiniteDuration()), options.wait_for_ready, pair);
    return std::make_unique<MemoryClientStream>(std::move(pair));
  }

 private:
  CallContext Context(const CallOptions& options, absl::Duration deadline) const {
    CallContext context;
    context.metadata = options.metadata;
    context.metadata.insert(metadata_.begin(), metadata_.end());  // a call's own values win
    context.metadata.erase("vlm-role");                           // given by RequireToken only
    context.deadline = deadline;
    context.peer = peer_;
    return context;
  }

  template <typename T>
  void Remember(std::vector<std::weak_ptr<T>>* list, const std::shared_ptr<T>& item) {
    MutexLock lock(&mutex_);
    if (list->size() == list->capacity()) std::erase_if(*list, [](const auto& weak) { return weak.expired(); });
    list->push_back(item);
  }

  const std::shared_ptr<Core> core_;
  const std::string peer_;
  const Metadata metadata_;
  Mutex mutex_;
  std::vector<std::weak_ptr<MemoryCall>> calls_;  // appended under the lock
  std::vector<std::weak_ptr<MemoryStreamPair>> pairs_;
};

}  // namespace

MemoryTransport::MemoryTransport(Executor* executor, MemoryTransportOptions options)
    : core_(std::make_shared<Core>(executor, options)) {}

MemoryTransport::~MemoryTransport() { core_->Stop(); }

void MemoryTransport::Serve(ServiceRegistry registry) { core_->Serve(std::move(registry)); }

void MemoryTransport::Stop() { core_->Stop(); }

std::unique_ptr<Channel> MemoryTransport::Connect(std::string peer, Metadata metadata) {
  return std::make_unique<MemoryChannel<Core>>(core_, std::move(peer), std::move(metadata));
}

}  // namespace vlm::rpc
