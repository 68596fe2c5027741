#include "rpc/token.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "rpc/memory_transport.h"
#include "tests/unit/rpc/virtual_executor.h"
#include "tests/unit/rpc/waiting_receiver.h"

namespace vlm::rpc {
namespace {

std::string Path(const std::string& name) {
  const std::string path = testing::TempDir() + "/" + name;
  unlink(path.c_str());
  return path;
}

TEST(TokenTest, TokensAre64HexDigitsAndDiffer) {
  const std::string a = NewToken().value();
  const std::string b = NewToken().value();
  EXPECT_EQ(a.size(), 64u);
  EXPECT_EQ(a.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_NE(a, b);
}

TEST(TokenTest, FilesArePrivateAndReadBack) {
  const std::string path = Path("token");
  const std::string token = ReadOrCreateTokenFile(path).value();
  struct stat info{};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(ReadTokenFile(path).value(), token);
  EXPECT_EQ(ReadOrCreateTokenFile(path).value(), token);
  EXPECT_TRUE(absl::IsAlreadyExists(CreateTokenFile(path).status()));
}

TEST(TokenTest, OpenOrDamagedFilesAreRefused) {
  const std::string path = Path("open_token");
  ASSERT_TRUE(CreateTokenFile(path).ok());
  chmod(path.c_str(), 0644);
  const absl::Status open = ReadTokenFile(path).status();
  EXPECT_TRUE(absl::IsPermissionDenied(open));
  EXPECT_NE(std::string(open.message()).find(path), std::string::npos);
  chmod(path.c_str(), 0600);
  std::ofstream(path, std::ios::trunc) << "hello\n";
  EXPECT_TRUE(absl::IsInvalidArgument(ReadTokenFile(path).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ReadOrCreateTokenFile(path).status())) << "never overwritten";
  EXPECT_TRUE(absl::IsNotFound(ReadTokenFile(Path("absent")).status()));
}

TEST(TokenTest, EqualSecretsComparesWholeStrings) {
  EXPECT_TRUE(EqualSecrets("abc", "abc"));
  EXPECT_FALSE(EqualSecrets("abc", "abd"));
  EXPECT_FALSE(EqualSecrets("abc", "abcd"));
  EXPECT_TRUE(EqualSecrets("", ""));
}

class GateTest : public testing::Test {
 protected:
  GateTest() {
    ServiceRegistry registry;
    for (const char* method : {"/vlm.v1.JobService/GetJob", "/vlm.v1.WorkerService/Other", "/vlm.v1.Free/Call"}) {
      registry.unary[method] = [](const CallContext& context, std::string, Respond respond) {
        respond(context.metadata.at(kRoleKey));
      };
    }
    registry.streams["/vlm.v1.WorkerService/Session"] = [](const CallContext& context, std::shared_ptr<Stream> stream) {
      stream->Send(context.metadata.at(kRoleKey));
      stream->Close(absl::OkStatus());
      return std::make_shared<WaitingReceiver>();
    };
    transport_.Serve(RequireToken(std::move(registry), {{"user", user_}, {"worker", worker_}},
                                  {{"/vlm.v1.JobService/", {"user"}},
                                   {"/vlm.v1.WorkerService/", {"worker"}},
                                   {"/vlm.v1.WorkerService/Other", {"user", "worker"}}}));
  }
  absl::StatusOr<std::string> Call(const std::string& method, Metadata metadata) {
    absl::StatusOr<std::string> answer = absl::UnknownError("never answered");
    channel_->Call(method, "", {.metadata = std::move(metadata)},
                   [&](absl::StatusOr<std::string> value) { answer = std::move(value); });
    executor_.RunUntil(executor_.now() + absl::Seconds(1));
    return answer;
  }
  const std::string user_ = NewToken().value();
  const std::string worker_ = NewToken().value();
  VirtualExecutor executor_;
  MemoryTransport transport_{&executor_};
  std::unique_ptr<Channel> channel_ = transport_.Connect();
};

TEST_F(GateTest, AdmitsByRole) {
  EXPECT_EQ(Call("/vlm.v1.JobService/GetJob", BearerMetadata(user_)).value(), "user");
  EXPECT_TRUE(absl::IsPermissionDenied(Call("/vlm.v1.JobService/GetJob", BearerMetadata(worker_)).status()));
  EXPECT_EQ(Call("/vlm.v1.WorkerService/Other", BearerMetadata(user_)).value(), "user") << "the longest prefix decides";
  EXPECT_TRUE(absl::IsPermissionDenied(Call("/vlm.v1.Free/Call", BearerMetadata(user_)).status())) << "no rule";
}

TEST_F(GateTest, RefusesMissingAndUnknownTokens) {
  EXPECT_TRUE(absl::IsUnauthenticated(Call("/vlm.v1.JobService/GetJob", {}).status()));
  EXPECT_TRUE(absl::IsUnauthenticated(Call("/vlm.v1.JobService/GetJob", {{"authorization", user_}}).status()));
  EXPECT_TRUE(absl::IsUnauthenticated(Call("/vlm.v1.JobService/GetJob", BearerMetadata("")).status()));
  EXPECT_TRUE(absl::IsUnauthenticated(Call("/vlm.v1.JobService/GetJob", BearerMetadata(NewToken().value())).status()));
}

TEST_F(GateTest, GuardsStreams) {
  auto refused = std::make_shared<WaitingReceiver>();
  auto first = channel_->Open("/vlm.v1.WorkerService/Session", {.metadata = BearerMetadata(user_)}, refused);
  auto admitted = std::make_shared<WaitingReceiver>();
  auto second = channel_->Open("/vlm.v1.WorkerService/Session", {.metadata = BearerMetadata(worker_)}, admitted);
  executor_.RunUntil(absl::Seconds(1));
  EXPECT_TRUE(absl::IsPermissionDenied(refused->WaitForClose()));
  EXPECT_TRUE(admitted->WaitForClose().ok());
  EXPECT_EQ(admitted->WaitForMessages(1), (std::vector<std::string>{"worker"}));
}

}  // namespace
}  // namespace vlm::rpc
