#include "worker/state_dir.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "base/file_system.h"

namespace vlm::worker {
namespace {

class StateDirTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/state_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), path_).ok());
  }
  std::unique_ptr<StateDir> Open() {
    auto state = StateDir::Open(path_, "host");
    EXPECT_TRUE(state.ok()) << state.status();
    return *std::move(state);
  }
  std::string path_;
};

TEST_F(StateDirTest, KeepsItsIdentityAndCountsItsStarts) {
  auto first = Open();
  const std::string node = first->node_id();
  const std::string uuid = first->state_uuid();
  EXPECT_EQ(first->incarnation(), 1u);
  EXPECT_EQ(node.find("host-"), 0u);
  ASSERT_TRUE(first->StoreEpoch(9).ok());
  first.reset();
  auto second = Open();
  EXPECT_EQ(second->node_id(), node);
  EXPECT_EQ(second->state_uuid(), uuid);
  EXPECT_EQ(second->incarnation(), 2u);
  EXPECT_EQ(second->epoch(), 9u);
  struct stat info{};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_F(StateDirTest, OneWorkerAtATimeAndTheHolderIsNamed) {
  auto first = Open();
  const absl::Status second = StateDir::Open(path_, "host").status();
  EXPECT_TRUE(absl::IsAlreadyExists(second)) << second;
  EXPECT_NE(std::string(second.message()).find(std::to_string(getpid())), std::string::npos) << second;
}

TEST_F(StateDirTest, RowsLastUntilTheyAreRemoved) {
  auto state = Open();
  v1::RankResult result;
  result.set_attempt_id("abcd/5");
  result.set_fence(5);
  result.set_rank(3);
  result.set_exit_code(70);
  ASSERT_TRUE(state->StoreResult(result).ok());
  const ProcessName process{.pid = 77, .start_ticks = 123456789};
  ASSERT_TRUE(state->StoreProcess(process).ok());
  const StoredCall call{.name = "part-1", .method = "/vlm.v1.CheckpointService/AddPart", .request = {"a\n\0b", 4}};
  ASSERT_TRUE(state->StoreCall(call).ok());
  state.reset();
  state = Open();
  const auto results = state->LoadResults().value();
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].SerializeAsString(), result.SerializeAsString());
  EXPECT_EQ(state->LoadProcesses().value(), std::vector<ProcessName>{process});
  const auto calls = state->LoadCalls().value();
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0].name, call.name);
  EXPECT_EQ(calls[0].method, call.method);
  EXPECT_EQ(calls[0].request, call.request);
  ASSERT_TRUE(state->RemoveResult({"abcd/5", 5, 3}).ok());
  ASSERT_TRUE(state->RemoveProcess(77).ok());
  ASSERT_TRUE(state->RemoveCall("part-1").ok());
  ASSERT_TRUE(state->RemoveCall("part-1").ok()) << "removing twice is fine";
  EXPECT_TRUE(state->LoadResults().value().empty());
  EXPECT_TRUE(state->LoadProcesses().value().empty());
  EXPECT_TRUE(state->LoadCalls().value().empty());
}

TEST_F(StateDirTest, ProcessesOfAnEarlierBootAreForgotten) {
  auto state = Open();
  const ProcessName process{.pid = 77, .start_ticks = 123456789};
  ASSERT_TRUE(state->StoreProcess(process).ok());
  const std::string earlier = path_ + "/processes/78";
  std::ofstream(earlier) << R"({"pid": 78, "start_ticks": 5, "boot_id": "of-an-earlier-boot"})";
  EXPECT_EQ(state->LoadProcesses().value(), std::vector<ProcessName>{process});
  EXPECT_EQ(PosixFileSystem()->List(path_ + "/processes").value(), std::vector<std::string>{"77"});
}

TEST_F(StateDirTest, DamageIsNamedWithItsPlace) {
  Open().reset();
  const std::string row = path_ + "/results/abcd-5-r0";
  std::ofstream(row) << "not a result";
  auto state = Open();
  const absl::Status damaged = state->LoadResults().status();
  EXPECT_TRUE(absl::IsDataLoss(damaged)) << damaged;
  EXPECT_NE(std::string(damaged.message()).find(row), std::string::npos);
  state.reset();
  std::ofstream(path_ + "/worker.json", std::ios::trunc) << "{\"format\": 2}";
  EXPECT_TRUE(absl::IsDataLoss(StateDir::Open(path_, "host").status()));
}

TEST_F(StateDirTest, ValuesOfAnotherKindAreDamageToo) {
  for (const char* identity : {R"({"format": "1"})", R"({"format": null})",
                               R"({"format": 1, "node_id": null, "state_uuid": "b", "incarnation": 1})",
                               R"({"format": 1, "node_id": "a", "state_uuid": [], "incarnation": 1})",
                               R"({"format": 1, "node_id": "a", "state_uuid": "b", "incarnation": "1"})",
                               R"({"format": 1, "node_id": "a", "state_uuid": "b", "incarnation": -1})",
                               R"({"format": 1, "node_id": "a", "state_uuid": "b", "coordinator_epoch": 0})",
                               R"({"format": 1, "node_id": "a", "state_uuid": "b", "incarnation": 1})"}) {
    Open().reset();
    std::ofstream(path_ + "/worker.json", std::ios::trunc) << identity;
    const absl::Status damaged = StateDir::Open(path_, "host").status();
    EXPECT_TRUE(absl::IsDataLoss(damaged)) << identity << ": " << damaged;
    EXPECT_NE(std::string(damaged.message()).find("worker.json"), std::string::npos) << damaged;
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), path_).ok());
  }
  auto state = Open();
  const std::string boot = ReadBootId();
  for (const char* fields : {R"("pid": "77", "start_ticks": 5)", R"("pid": 0, "start_ticks": 5)",
                             R"("pid": 4294967297, "start_ticks": 5)", R"("pid": 77)"}) {
    const std::string row = path_ + "/processes/77";
    std::ofstream(row, std::ios::trunc) << "{" << fields << R"(, "boot_id": ")" << boot << "\"}";
    EXPECT_TRUE(absl::IsDataLoss(state->LoadProcesses().status())) << fields;
  }
  std::ofstream(path_ + "/processes/77", std::ios::trunc) << R"({"pid": 77, "start_ticks": 5, "boot_id": null})";
  EXPECT_TRUE(state->LoadProcesses().value().empty()) << "of no boot that is this one";
}

}  // namespace
}  // namespace vlm::worker
