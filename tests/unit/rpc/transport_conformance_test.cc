// What every transport must do, run over each of them.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/executor.h"
#include "rpc/grpc_channel.h"
#include "rpc/grpc_server.h"
#include "rpc/memory_transport.h"
#include "tests/unit/rpc/waiting_receiver.h"

namespace vlm::rpc {
namespace {

constexpr size_t kMessageBytesMax = 1u << 20;

// A server that can be stopped and started again at one address, and channels to it.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual void Serve(ServiceRegistry registry) = 0;
  virtual void Stop() = 0;
  virtual std::unique_ptr<Channel> Connect() = 0;
};

class MemoryUnderTest final : public Transport {
 public:
  void Serve(ServiceRegistry registry) override { transport_.Serve(std::move(registry)); }
  void Stop() override { transport_.Stop(); }
  std::unique_ptr<Channel> Connect() override { return transport_.Connect("memory", {{"shared", "yes"}}); }

 private:
  std::unique_ptr<Executor> executor_ = NewThreadExecutor("transport");
  MemoryTransport transport_{executor_.get(), {.message_bytes_max = kMessageBytesMax}};
};

class GrpcUnderTest final : public Transport {
 public:
  explicit GrpcUnderTest(std::string address) : address_(std::move(address)) {}
  void Serve(ServiceRegistry registry) override {
    Stop();
    auto server = GrpcServer::Create({.address = address_, .message_bytes_max = kMessageBytesMax}, std::move(registry));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = server_->address();
  }
  void Stop() override { server_.reset(); }
  std::unique_ptr<Channel> Connect() override {
    auto channel =
        NewGrpcChannel({.address = address_, .metadata = {{"shared", "yes"}}, .message_bytes_max = kMessageBytesMax});
    EXPECT_TRUE(channel.ok()) << channel.status();
    return *std::move(channel);
  }

 private:
  std::string address_;
  std::unique_ptr<GrpcServer> server_;
};

struct TransportKind {
  std::string name;
  std::function<std::unique_ptr<Transport>()> make;
};

std::vector<TransportKind> Kinds() {
  return {
      {"Memory", [] { return std::make_unique<MemoryUnderTest>(); }},
      {"GrpcTcp", [] { return std::make_unique<GrpcUnderTest>("127.0.0.1:0"); }},
      {"GrpcUnix", [] { return std::make_unique<GrpcUnderTest>("unix:" + testing::TempDir() + "/conformance.sock"); }}};
}

class TransportConformance : public testing::TestWithParam<TransportKind> {
 protected:
  // Handlers that most tests need: Echo, Never, Fail, Meta, and the streams Chat (echo), Hold, Refuse.
  ServiceRegistry Registry() {
    ServiceRegistry registry;
    registry.unary["/t.T/Echo"] = [](const CallContext&, std::string request, Respond respond) {
      respond(std::move(request));
    };
    registry.unary["/t.T/Never"] = [this](const CallContext&, std::string, Respond respond) {
      MutexLock lock(&mutex_);
      kept_.push_back(std::move(respond));
    };
    registry.unary["/t.T/Drop"] = [](const CallContext&, std::string, Respond) {};
    registry.unary["/t.T/Fail"] = [](const CallContext&, std::string, Respond respond) {
      respond(absl::FailedPreconditionError("fence is old: 3"));
    };
    registry.unary["/t.T/Meta"] = [](const CallContext& context, std::string request, Respond respond) {
      const auto found = context.metadata.find(request);
      respond(found == context.metadata.end() ? "absent" : found->second);
    };
    registry.unary["/t.T/Deadline"] = [](const CallContext& context, std::string, Respond respond) {
      respond(std::to_string(absl::ToInt64Seconds(context.deadline + absl::Milliseconds(500))));
    };
    registry.streams["/t.T/Chat"] = [this](const CallContext&, std::shared_ptr<Stream> stream) {
      auto receiver = std::make_shared<EchoReceiver>(std::move(stream), &server_side_);
      return receiver;
    };
    registry.streams["/t.T/Hold"] = [this](const CallContext&, std::shared_ptr<Stream> stream) {
      MutexLock lock(&mutex_);
      held_stream_ = std::move(stream);
      opened_.Set();
      return std::shared_ptr<StreamReceiver>(&server_side_, [](StreamReceiver*) {});
    };
    registry.streams["/t.T/Refuse"] = [](const CallContext&, std::shared_ptr<Stream> stream) {
      stream->Close(absl::PermissionDeniedError("not you"));
      return std::make_shared<WaitingReceiver>();
    };
    return registry;
  }

  // Echoes; on the client's half-close says goodbye and ends with OK.
  class EchoReceiver final : public StreamReceiver {
   public:
    EchoReceiver(std::shared_ptr<Stream> stream, WaitingReceiver* seen) : stream_(std::move(stream)), seen_(seen) {}
    void OnMessage(std::string message) override { stream_->Send(std::move(message)); }
    void OnClosed(absl::Status status) override {
      if (status.ok()) {
        stream_->Send("goodbye");
        stream_->Close(absl::OkStatus());
      }
      seen_->OnClosed(std::move(status));
    }

   private:
    const std::shared_ptr<Stream> stream_;
    WaitingReceiver* const seen_;
  };

  void TearDown() override {
    std::vector<Respond> kept;
    {
      MutexLock lock(&mutex_);
      kept.swap(kept_);
      held_stream_ = nullptr;
    }
    kept.clear();  // while the transport they answer through exists
    transport_.reset();
  }

  std::shared_ptr<Stream> TakeHeldStream() {
    MutexLock lock(&mutex_);
    return std::move(held_stream_);
  }

  Mutex mutex_;
  std::vector<Respond> kept_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Stream> held_stream_ ABSL_GUARDED_BY(mutex_);
  WaitingReceiver server_side_;
  Event opened_;
  std::unique_ptr<Transport> transport_ = GetParam().make();
};

TEST_P(TransportConformance, AnswersAUnaryCall) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  const std::string bytes("\0binary\xff", 8);
  EXPECT_EQ(CallAndWait(channel.get(), "/t.T/Echo", bytes, {}).value(), bytes);
  EXPECT_EQ(CallAndWait(channel.get(), "/t.T/Echo", "", {}).value(), "");
}

TEST_P(TransportConformance, CarriesCodeAndMessageOfAnError) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  const absl::Status status = CallAndWait(channel.get(), "/t.T/Fail", "", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::string(status.message()), "fence is old: 3");
}

TEST_P(TransportConformance, UnknownMethodIsUnimplemented) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  EXPECT_TRUE(absl::IsUnimplemented(CallAndWait(channel.get(), "/t.T/Nothing", "", {}).status()));
  auto receiver = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Nothing", {}, receiver);
  EXPECT_TRUE(absl::IsUnimplemented(receiver->WaitForClose()));
}

TEST_P(TransportConformance, DeadlineEndsACallThatIsNotAnswered) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  const absl::Status status =
      CallAndWait(channel.get(), "/t.T/Never", "", {.deadline = absl::Milliseconds(50)}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

TEST_P(TransportConformance, HandlerSeesTheDeadline) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  EXPECT_EQ(CallAndWait(channel.get(), "/t.T/Deadline", "", {.deadline = absl::Seconds(90)}).value(), "90");
}

TEST_P(TransportConformance, AHandlerThatDropsACallAnswersInternal) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  EXPECT_TRUE(absl::IsInternal(CallAndWait(channel.get(), "/t.T/Drop", "", {}).status()));
}

TEST_P(TransportConformance, CarriesMetadataOfCallAndChannel) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  CallOptions options;
  options.metadata = {{"vlm-attempt-token", "abc"}, {"vlm-role", "admin"}};
  EXPECT_EQ(CallAndWait(channel.get(), "/t.T/Meta", "vlm-attempt-token", options).value(), "abc");
  EXPECT_EQ(CallAndWait(channel.get(), "/t.T/Meta", "shared", options).value(), "yes");
  EXPECT_EQ(CallAndWait(channel.get(), "/t.T/Meta", "other", options).value(), "absent");
  EXPECT_EQ(CallAndWait(channel.get(), "/t.T/Meta", "vlm-role", options).value(), "absent") << "roles are not claimed";
  options.metadata = {{"shared", "mine"}};
  EXPECT_EQ(CallAndWait(channel.get(), "/t.T/Meta", "shared", options).value(), "mine");
}

TEST_P(TransportConformance, UnavailableWithoutAServer) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  transport_->Stop();
  EXPECT_TRUE(absl::IsUnavailable(CallAndWait(channel.get(), "/t.T/Echo", "x", {}).status()));
  auto receiver = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Chat", {}, receiver);
  EXPECT_TRUE(absl::IsUnavailable(receiver->WaitForClose()));
}

TEST_P(TransportConformance, WaitForReadyReachesARestartedServer) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  ASSERT_TRUE(CallAndWait(channel.get(), "/t.T/Echo", "x", {}).ok());
  transport_->Stop();
  ASSERT_TRUE(absl::IsUnavailable(CallAndWait(channel.get(), "/t.T/Echo", "x", {}).status()));
  Event answered;
  absl::StatusOr<std::string> answer;
  channel->Call("/t.T/Echo", "again", {.wait_for_ready = true}, [&](absl::StatusOr<std::string> value) {
    answer = std::move(value);
    answered.Set();
  });
  transport_->Serve(Registry());
  ASSERT_TRUE(answered.Wait());
  EXPECT_EQ(answer.value(), "again") << answer.status();
}

TEST_P(TransportConformance, StoppingTheServerBreaksCallsAndStreams) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  auto receiver = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Hold", {}, receiver);
  ASSERT_TRUE(opened_.Wait());
  Event answered;
  absl::Status status;
  channel->Call("/t.T/Never", "", {}, [&](absl::StatusOr<std::string> value) {
    status = value.status();
    answered.Set();
  });
  ASSERT_TRUE(CallAndWait(channel.get(), "/t.T/Echo", "x", {}).ok());  // so that Never has arrived
  transport_->Stop();
  ASSERT_TRUE(answered.Wait());
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(absl::IsUnavailable(receiver->WaitForClose())) << receiver->WaitForClose();
  EXPECT_TRUE(absl::IsCancelled(server_side_.WaitForClose())) << server_side_.WaitForClose();
  EXPECT_FALSE(stream->Send("late"));
}

TEST_P(TransportConformance, StreamKeepsOrderAndEndsAfterHalfClose) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  auto receiver = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Chat", {}, receiver);
  constexpr size_t kCount = 500;
  for (size_t i = 0; i < kCount; ++i) ASSERT_TRUE(stream->Send(std::to_string(i)));
  stream->Close(absl::OkStatus());
  EXPECT_FALSE(stream->Send("after half-close"));
  EXPECT_TRUE(receiver->WaitForClose().ok()) << receiver->WaitForClose();
  const std::vector<std::string> got = receiver->WaitForMessages(kCount + 1);
  ASSERT_EQ(got.size(), kCount + 1);
  for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(got[i], std::to_string(i));
  EXPECT_EQ(got.back(), "goodbye");
  EXPECT_TRUE(server_side_.WaitForClose().ok());
  EXPECT_FALSE(receiver->saw_anything_after_close());
}

TEST_P(TransportConformance, CancellingTellsBothSides) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  auto receiver = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Hold", {}, receiver);
  ASSERT_TRUE(opened_.Wait());
  stream.reset();
  EXPECT_TRUE(absl::IsCancelled(receiver->WaitForClose()));
  EXPECT_TRUE(absl::IsCancelled(server_side_.WaitForClose()));
  const std::shared_ptr<Stream> server_stream = TakeHeldStream();
  EXPECT_FALSE(server_stream->Send("nobody reads"));
}

TEST_P(TransportConformance, DestroyingTheChannelCancelsWhatIsOpen) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  auto receiver = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Hold", {}, receiver);
  ASSERT_TRUE(opened_.Wait());
  Event answered;
  absl::Status status;
  channel->Call("/t.T/Never", "", {}, [&](absl::StatusOr<std::string> value) {
    status = value.status();
    answered.Set();
  });
  channel.reset();
  ASSERT_TRUE(answered.Wait());
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_TRUE(absl::IsCancelled(receiver->WaitForClose()));
}

TEST_P(TransportConformance, ServerEndsAStreamWithAStatusAfterItsMessages) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  auto receiver = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Hold", {}, receiver);
  ASSERT_TRUE(opened_.Wait());
  const std::shared_ptr<Stream> server_stream = TakeHeldStream();
  EXPECT_TRUE(server_stream->Send("one"));
  EXPECT_TRUE(server_stream->Send("two"));
  server_stream->Close(absl::AlreadyExistsError("node id is taken"));
  EXPECT_FALSE(server_stream->Send("three"));
  const absl::Status status = receiver->WaitForClose();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_EQ(receiver->WaitForMessages(2), (std::vector<std::string>{"one", "two"}));
  EXPECT_TRUE(server_side_.WaitForClose().ok());
}

TEST_P(TransportConformance, ARefusedStreamIsClosedWithTheReason) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  auto receiver = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Refuse", {}, receiver);
  const absl::Status status = receiver->WaitForClose();
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
}

TEST_P(TransportConformance, MessagesAboveTheLimitAreRefused) {
  transport_->Serve(Registry());
  auto channel = transport_->Connect();
  const std::string large(kMessageBytesMax + 1, 'x');
  EXPECT_TRUE(absl::IsResourceExhausted(CallAndWait(channel.get(), "/t.T/Echo", large, {}).status()));
  const std::string fits(kMessageBytesMax - 100, 'x');
  EXPECT_EQ(CallAndWait(channel.get(), "/t.T/Echo", fits, {}).value().size(), fits.size());
  auto receiver = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Hold", {}, receiver);
  ASSERT_TRUE(opened_.Wait());
  stream->Send(large);
  EXPECT_TRUE(absl::IsResourceExhausted(receiver->WaitForClose())) << receiver->WaitForClose();
  EXPECT_TRUE(absl::IsCancelled(server_side_.WaitForClose()));
}

// A receiver that does not return holds up delivery; the sender must learn that, and not fill its memory.
TEST_P(TransportConformance, SendRefusesWhenThePeerDoesNotRead) {
  auto release = std::make_shared<Event>();  // handlers may outlive the test's body
  class Stuck final : public StreamReceiver {
   public:
    explicit Stuck(std::shared_ptr<Event> release) : release_(std::move(release)) {}
    void OnMessage(std::string) override { release_->Wait(); }
    void OnClosed(absl::Status) override {}

   private:
    const std::shared_ptr<Event> release_;
  };
  ServiceRegistry registry;
  registry.streams["/t.T/Stuck"] = [release](const CallContext&, std::shared_ptr<Stream> stream) {
    struct Keep : StreamReceiver {
      std::shared_ptr<Stream> stream;
      std::shared_ptr<StreamReceiver> inner;
      void OnMessage(std::string message) override { inner->OnMessage(std::move(message)); }
      void OnClosed(absl::Status status) override { inner->OnClosed(std::move(status)); }
    };
    auto keep = std::make_shared<Keep>();
    keep->stream = std::move(stream);
    keep->inner = std::make_shared<Stuck>(release);
    return keep;
  };
  transport_->Serve(std::move(registry));
  auto channel = transport_->Connect();
  auto receiver = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Stuck", {}, receiver);
  const std::string message(64 << 10, 'x');
  int accepted = 0;
  while (accepted < 20000 && stream->Send(message)) ++accepted;
  EXPECT_GE(accepted, 1024);
  EXPECT_LT(accepted, 20000);
  release->Set();
  stream.reset();
  EXPECT_TRUE(absl::IsCancelled(receiver->WaitForClose()));
}

INSTANTIATE_TEST_SUITE_P(All, TransportConformance, testing::ValuesIn(Kinds()),
                         [](const testing::TestParamInfo<TransportKind>& kind) { return kind.param.name; });

}  // namespace
}  // namespace vlm::rpc
