// Tokens, addresses, files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "base/file_system.h"
#include "tests/integration/coordinator/running_server.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/data.pb.h"
#include "vlm/v1/node.pb.h"

namespace vlm::coordinator {
namespace {

mode_t ModeOf(const std::string& path) {
  struct stat info{};
  EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
  return info.st_mode & 0777;
}

TEST(CoordinatorSecurityTest, EveryMethodNeedsATokenOfItsRole) {
  RunningServer server("tokens");
  ASSERT_TRUE(server.Start().ok());
  const auto code = [&](const std::string& method, const std::string& role) {
    return rpc::CallAndWait(server.ChannelAs(role).get(), "/vlm.v1." + method, "",
                            {.deadline = kPatience, .wait_for_ready = true})
        .status()
        .code();
  };
  constexpr auto kDenied = absl::StatusCode::kPermissionDenied;
  for (const char* method : {"JobService/SubmitJob", "JobService/GetJob", "JobService/ListJobs", "JobService/CancelJob",
                             "JobService/RetryJob", "JobService/QueryMetrics", "NodeService/ListNodes"}) {
    EXPECT_EQ(code(method, ""), absl::StatusCode::kUnauthenticated) << method;
    EXPECT_EQ(code(method, "worker"), kDenied) << method;
    EXPECT_NE(code(method, "user"), kDenied) << method;
  }
  for (const char* method : {"DataService/LeaseShards", "DataService/CommitShard", "DataService/FailShard",
                             "DataService/ListShards", "CheckpointService/BeginStep", "CheckpointService/AddPart"}) {
    EXPECT_EQ(code(method, ""), absl::StatusCode::kUnauthenticated) << method;
    EXPECT_EQ(code(method, "user"), kDenied) << method;
    EXPECT_NE(code(method, "worker"), kDenied) << method;
  }
  for (const char* method : {"CheckpointService/OpenAttempt", "CheckpointService/CommitArtifact"}) {
    EXPECT_EQ(code(method, "worker"), absl::StatusCode::kUnimplemented) << method << " is the coordinator's own";
    EXPECT_EQ(code(method, "user"), absl::StatusCode::kUnimplemented) << method;
  }
  for (const char* method : {"CheckpointService/GetStep", "CheckpointService/ListSteps", "CheckpointService/GetLatest",
                             "CheckpointService/VerifyStep", "CheckpointService/DeleteStep"}) {
    EXPECT_EQ(code(method, ""), absl::StatusCode::kUnauthenticated) << method;
    EXPECT_NE(code(method, "user"), kDenied) << method;
    EXPECT_NE(code(method, "worker"), kDenied) << method;
  }
  for (const auto& [method, role] : std::map<std::string, std::string>{{"WorkerService/Session", "user"},
                                                                       {"WorkerService/ShipTelemetry", "user"},
                                                                       {"JobService/WatchEvents", "worker"},
                                                                       {"JobService/TailLogs", "worker"}}) {
    auto inbox = std::make_shared<Inbox>();
    const auto channel = server.ChannelAs(role);
    const auto stream = channel->Open("/vlm.v1." + method, {.wait_for_ready = true}, inbox);
    EXPECT_TRUE(absl::IsPermissionDenied(inbox->Next().status())) << method;
  }
}

TEST(CoordinatorSecurityTest, TokensAndStateAreTheOwnersOnly) {
  RunningServer server("files");
  server.options().port_file = testing::TempDir() + "/vlm-ports.json";
  ASSERT_TRUE(server.Start().ok());
  const std::string state = server.options().state_dir;
  EXPECT_EQ(ModeOf(state), 0700u);
  EXPECT_EQ(ModeOf(state + "/user.token"), 0600u);
  EXPECT_EQ(ModeOf(state + "/worker.token"), 0600u);
  const auto user = rpc::ReadTokenFile(state + "/user.token");
  const auto worker = rpc::ReadTokenFile(state + "/worker.token");
  ASSERT_TRUE(user.ok() && worker.ok());
  EXPECT_NE(*user, *worker);
  for (const std::string& path : {state + "/coordinator.json", server.options().port_file}) {
    const auto text = ReadFile(PosixFileSystem(), path, 1 << 16);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(text->find(*user), std::string::npos) << "a token stands in its own file only";
    const auto json = nlohmann::json::parse(*text);
    EXPECT_EQ(json["address"], server.server()->address());
    EXPECT_EQ(json["metrics_address"], server.server()->metrics_address());
    EXPECT_EQ(json["pid"], getpid());
    EXPECT_EQ(json["user_token_file"], state + "/user.token");
  }
  server.Stop();
  ASSERT_TRUE(server.Start().ok());
  EXPECT_EQ(*rpc::ReadTokenFile(state + "/user.token"), *user) << "a restart keeps tokens";
}

TEST(CoordinatorSecurityTest, OnlyThisMachinesAddressesAndAbsoluteFoldersAreServed) {
  for (const char* address : {"0.0.0.0:0", "[::]:0", "10.0.0.1:7000"}) {
    RunningServer server("address");
    server.options().address = address;
    EXPECT_TRUE(absl::IsInvalidArgument(server.Start())) << address;
    RunningServer metrics("metrics-address");
    metrics.options().metrics_address = address;
    EXPECT_TRUE(absl::IsInvalidArgument(metrics.Start())) << address;
  }
  RunningServer relative("relative");
  relative.options().state_dir = "state";
  EXPECT_TRUE(absl::IsInvalidArgument(relative.Start()));
  RunningServer untidy("untidy");
  const std::string root = untidy.options().artifact_roots[0];
  untidy.options().artifact_roots = {untidy.folder() + "//./artifacts/"};
  ASSERT_TRUE(untidy.Start().ok());
  const absl::StatusOr<std::string> id = untidy.Submit(GenerateJob("tidy"), "r");
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(untidy.GetJob(*id).artifacts(), root);
  RunningServer rootless("rootless");
  rootless.options().artifact_roots.clear();
  EXPECT_TRUE(absl::IsInvalidArgument(rootless.Start()));
}

}  // namespace
}  // namespace vlm::coordinator
