#include "rpc/memory_transport.h"

#include <gtest/gtest.h>

#include "tests/unit/rpc/virtual_executor.h"
#include "tests/unit/rpc/waiting_receiver.h"

namespace vlm::rpc {
namespace {

ServiceRegistry EchoRegistry() {
  ServiceRegistry registry;
  registry.unary["/t.T/Echo"] = [](const CallContext&, std::string request, Respond respond) { respond(request); };
  registry.unary["/t.T/Never"] = [](const CallContext&, std::string, Respond respond) {
    static Respond* const kept = new Respond;  // never answered, never dropped
    *kept = std::move(respond);
  };
  return registry;
}

TEST(MemoryTransportTest, NothingHappensBeforeTheExecutorRuns) {
  VirtualExecutor executor;
  MemoryTransport transport(&executor, {.latency = absl::Milliseconds(3)});
  transport.Serve(EchoRegistry());
  auto channel = transport.Connect();
  std::string got;
  channel->Call("/t.T/Echo", "x", {}, [&](absl::StatusOr<std::string> answer) { got = answer.value(); });
  executor.RunUntil(absl::Milliseconds(5));
  EXPECT_EQ(got, "");
  executor.RunUntil(absl::Milliseconds(6));
  EXPECT_EQ(got, "x") << "one latency each way";
}

TEST(MemoryTransportTest, DeadlinesRunOnVirtualTime) {
  VirtualExecutor executor;
  MemoryTransport transport(&executor);
  transport.Serve(EchoRegistry());
  auto channel = transport.Connect();
  absl::Status status;
  channel->Call("/t.T/Never", "", {.deadline = absl::Hours(5)},
                [&](absl::StatusOr<std::string> answer) { status = answer.status(); });
  executor.RunUntil(absl::Hours(5) - absl::Nanoseconds(1));
  EXPECT_TRUE(status.ok());
  executor.RunUntil(absl::Hours(5));
  EXPECT_TRUE(absl::IsDeadlineExceeded(status));
}

TEST(MemoryTransportTest, AStreamOpenedBeforeTheServerKeepsItsMessages) {
  VirtualExecutor executor;
  MemoryTransport transport(&executor);
  auto channel = transport.Connect();
  auto client = std::make_shared<WaitingReceiver>();
  auto stream = channel->Open("/t.T/Hold", {.wait_for_ready = true}, client);
  ASSERT_TRUE(stream->Send("one"));
  ASSERT_TRUE(stream->Send("two"));
  stream->Close(absl::OkStatus());
  executor.RunUntil(absl::Seconds(1));
  auto server = std::make_shared<WaitingReceiver>();
  std::shared_ptr<Stream> kept;
  ServiceRegistry registry;
  registry.streams["/t.T/Hold"] = [&](const CallContext&, std::shared_ptr<Stream> opened) {
    kept = std::move(opened);
    return server;
  };
  transport.Serve(std::move(registry));
  executor.RunUntil(absl::Seconds(2));
  EXPECT_EQ(server->WaitForMessages(2), (std::vector<std::string>{"one", "two"}));
  EXPECT_TRUE(server->WaitForClose().ok());
}

TEST(MemoryTransportTest, AChannelOutlivesItsTransport) {
  VirtualExecutor executor;
  std::unique_ptr<Channel> channel;
  {
    MemoryTransport transport(&executor);
    transport.Serve(EchoRegistry());
    channel = transport.Connect();
  }
  absl::Status status;
  channel->Call("/t.T/Echo", "x", {}, [&](absl::StatusOr<std::string> answer) { status = answer.status(); });
  executor.RunUntil(absl::Seconds(1));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

}  // namespace
}  // namespace vlm::rpc
