#include "rpc/grpc_server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <thread>

#include "base/mutex.h"
#include "rpc/grpc_channel.h"
#include "tests/unit/rpc/waiting_receiver.h"

namespace vlm::rpc {
namespace {

std::string SocketPath(const std::string& name) { return testing::TempDir() + "/" + name; }

TEST(GrpcServerTest, RefusesAddressesThatAreNotThisMachines) {
  for (const char* address : {"0.0.0.0:0", "[::]:0", "192.168.0.1:0"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(GrpcServer::Create({.address = address}, {}).status())) << address;
    EXPECT_TRUE(absl::IsInvalidArgument(NewGrpcChannel({.address = address}).status())) << address;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(NewGrpcChannel({.address = "127.0.0.1:0"}).status()));
}

TEST(GrpcServerTest, ReportsTheChosenPort) {
  auto server = GrpcServer::Create({.address = "127.0.0.1:0"}, {});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_GT((*server)->port(), 0);
  EXPECT_EQ((*server)->address(), "127.0.0.1:" + std::to_string((*server)->port()));
}

TEST(GrpcServerTest, ASecondServerOnAPortIsRefusedNamingThePort) {
  auto first = GrpcServer::Create({.address = "127.0.0.1:0"}, {});
  ASSERT_TRUE(first.ok());
  const absl::Status second = GrpcServer::Create({.address = (*first)->address()}, {}).status();
  EXPECT_TRUE(absl::IsAlreadyExists(second)) << second;
  EXPECT_NE(std::string(second.message()).find(std::to_string((*first)->port())), std::string::npos) << second;
}

TEST(GrpcServerTest, UnixSocketIsPrivateAndNeverStolen) {
  const std::string path = SocketPath("private.sock");
  auto first = GrpcServer::Create({.address = "unix:" + path}, {});
  ASSERT_TRUE(first.ok()) << first.status();
  struct stat info{};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const absl::Status second = GrpcServer::Create({.address = "unix:" + path}, {}).status();
  EXPECT_TRUE(absl::IsAlreadyExists(second)) << second;
  auto channel = NewGrpcChannel({.address = "unix:" + path});
  EXPECT_TRUE(CallAndWait(channel->get(), "/grpc.health.v1.Health/Check", "", {}).ok());
}

TEST(GrpcServerTest, AServerThatStopsIsUnavailableToWhoeverIsCalling) {
  constexpr int kRounds = 60, kCalls = 5;
  for (int round = 0; round < kRounds; ++round) {
    Mutex mutex;
    CondVar changed;
    std::vector<Respond> held;
    std::vector<absl::Status> ends;
    ServiceRegistry registry;
    registry.unary["/t.T/Do"] = [&](const CallContext&, const std::string&, Respond respond) {
      MutexLock lock(&mutex);
      held.push_back(std::move(respond));
    };
    auto server = GrpcServer::Create({.address = "127.0.0.1:0"}, registry);
    ASSERT_TRUE(server.ok()) << server.status();
    auto channel = NewGrpcChannel({.address = (*server)->address()});
    ASSERT_TRUE(CallAndWait(channel->get(), "/grpc.health.v1.Health/Check", "", {}).ok());
    std::thread caller([&] {
      for (int i = 0; i < kCalls; ++i) {
        (*channel)->Call("/t.T/Do", "x", {.deadline = absl::Minutes(1)},
                         [&](const absl::StatusOr<std::string>& answer) {
                           MutexLock lock(&mutex);
                           ends.push_back(answer.status());
                           changed.NotifyAll();
                         });
      }
    });
    server->reset();  // while calls arrive
    caller.join();
    std::vector<Respond> unanswered;
    {
      MutexLock lock(&mutex);
      while (ends.size() < kCalls) ASSERT_TRUE(changed.WaitFor(&mutex, absl::Seconds(60)));
      unanswered.swap(held);
    }
    for (const absl::Status& end : ends) ASSERT_TRUE(absl::IsUnavailable(end)) << end << " in round " << round;
  }
}

TEST(GrpcServerTest, ADeadProcessesSocketIsReplacedButAFileIsNot) {
  const std::string path = SocketPath("dead.sock");
  unlink(path.c_str());
  const int dead = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::strcpy(name.sun_path, path.c_str());
  ASSERT_EQ(bind(dead, reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0);
  close(dead);
  EXPECT_TRUE(GrpcServer::Create({.address = "unix:" + path}, {}).ok());

  const std::string file = SocketPath("precious.txt");
  std::ofstream(file) << "data";
  EXPECT_TRUE(absl::IsAlreadyExists(GrpcServer::Create({.address = "unix:" + file}, {}).status()));
  EXPECT_TRUE(std::ifstream(file).good());
}

TEST(GrpcServerTest, HealthKnowsTheServices) {
  ServiceRegistry registry;
  registry.unary["/t.T/Echo"] = [](const CallContext&, std::string request, Respond respond) { respond(request); };
  auto server = GrpcServer::Create({.address = "127.0.0.1:0"}, std::move(registry));
  ASSERT_TRUE(server.ok());
  auto channel = NewGrpcChannel({.address = (*server)->address()});
  const std::string serving("\x08\x01");
  EXPECT_EQ(CallAndWait(channel->get(), "/grpc.health.v1.Health/Check", "", {}).value(), serving);
  EXPECT_EQ(CallAndWait(channel->get(), "/grpc.health.v1.Health/Check", "\x0a\x03t.T", {}).value(), serving);
  EXPECT_TRUE(
      absl::IsNotFound(CallAndWait(channel->get(), "/grpc.health.v1.Health/Check", "\x0a\x03t.U", {}).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(CallAndWait(channel->get(), "/grpc.health.v1.Health/Check", "\xff", {}).status()));
}

TEST(GrpcServerTest, GracefulShutdownLetsACallFinishAndRefusesNewOnes) {
  Event arrived;
  Mutex mutex;
  Respond kept;
  ServiceRegistry registry;
  registry.unary["/t.T/Slow"] = [&](const CallContext&, std::string, Respond respond) {
    {
      MutexLock lock(&mutex);
      kept = std::move(respond);
    }
    arrived.Set();
  };
  auto server = GrpcServer::Create({.address = "127.0.0.1:0"}, std::move(registry));
  ASSERT_TRUE(server.ok());
  auto channel = NewGrpcChannel({.address = (*server)->address()});
  Event answered;
  absl::StatusOr<std::string> answer;
  (*channel)->Call("/t.T/Slow", "", {}, [&](absl::StatusOr<std::string> value) {
    answer = std::move(value);
    answered.Set();
  });
  ASSERT_TRUE(arrived.Wait());
  std::thread stopping([&] { (*server)->Shutdown(absl::Seconds(20)); });
  // While draining, new calls are refused; the open one is answered and ends the shutdown.
  absl::Status refused;
  while (refused.ok() || absl::IsDeadlineExceeded(refused)) {
    refused = CallAndWait(channel->get(), "/grpc.health.v1.Health/Check", "", {}).status();
  }
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  {
    MutexLock lock(&mutex);
    kept("done");
  }
  ASSERT_TRUE(answered.Wait());
  EXPECT_EQ(answer.value(), "done");
  stopping.join();
}

}  // namespace
}  // namespace vlm::rpc
