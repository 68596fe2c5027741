// The disk of the coordinator's state folder fills up: new jobs are refused in time, what runs goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/hooked_file_system.h"
#include "base/simulated_file_system.h"
#include "coordinator/store_space.h"
#include "tests/integration/coordinator/running_server.h"
#include "tests/support/small_disk.h"

namespace vlm::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Until so much is free.
void FillUpTo(const std::string& folder, uint64_t free_bytes) {
  const uint64_t available = std::filesystem::space(folder).available;
  ASSERT_GT(available, free_bytes);
  std::ofstream(folder + "/filler", std::ios::binary) << std::string(available - free_bytes, 'x');
}

TEST(CoordinatorFullDiskTest, BelowTheFloorJobsAreRefusedAndCommandsAreStored) {
  RunningServer server("floor");
  const std::string state = server.options().state_dir;
  SmallDisk disk(state, 128 << 20);
  if (!disk.mounted()) GTEST_SKIP() << "no tmpfs may be mounted here: " << disk.why_not();
  server.options().free_space_floor_bytes = 32 << 20;
  ASSERT_TRUE(server.Start().ok());
  const absl::StatusOr<std::string> before = server.Submit(GenerateJob("before"), "request-1");
  ASSERT_TRUE(before.ok()) << before.status();

  FillUpTo(state, 16 << 20);
  const absl::Status refused = server.Submit(GenerateJob("refused"), "request-2").status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr("no new jobs while the coordinator's disk is nearly full; free space on it"),
                    HasSubstr(state), HasSubstr("33554432 are needed")));
  const absl::StatusOr<std::string> again = server.Submit(GenerateJob("before"), "request-1");
  ASSERT_TRUE(again.ok()) << "its job is stored, its answer may have been lost: " << again.status();
  EXPECT_EQ(*again, *before);
  v1::SubmitJobRequest looked_at;
  looked_at.set_job_yaml(GenerateJob("looked-at"));
  looked_at.set_validate_only(true);
  EXPECT_TRUE(server.Call<v1::SubmitJobResponse>("JobService/SubmitJob", looked_at).ok()) << "nothing is stored";
  v1::CancelJobRequest cancel;
  cancel.set_job_id(*before);
  const auto cancelled = server.Call<v1::CancelJobResponse>("JobService/CancelJob", cancel);
  EXPECT_TRUE(cancelled.ok()) << cancelled.status();

  std::filesystem::remove(state + "/filler");
  const absl::StatusOr<std::string> after = server.Submit(GenerateJob("refused"), "request-2");
  EXPECT_TRUE(after.ok()) << after.status();
  server.Stop();
  ASSERT_TRUE(server.Start().ok());
  EXPECT_EQ(server.GetJob(*before).state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(server.GetJob(*after).name(), "refused");
  server.Stop();
}

class StoreSpaceTest : public ::testing::Test {
 protected:
  StoreSpaceTest() {
    EXPECT_TRUE(disk_.MakeDirectory("/state").ok());
    disk_.SetCapacity(100 << 20);
  }
  StoreSpace Space() {
    return StoreSpace(&disk_, {.folder = "/state", .floor_bytes = 40 << 20, .ballast_bytes = 10 << 20});
  }
  void Write(const std::string& path, size_t bytes) {
    ASSERT_TRUE(WriteFileDurably(&disk_, path, std::string(bytes, 'x')).ok());
  }
  SimulatedFileSystem disk_;
};

TEST_F(StoreSpaceTest, KeepsAReserveAndGivesItUpOnAFullDisk) {
  EXPECT_FALSE(*Space().Prepare());
  EXPECT_TRUE(disk_.Stat("/state/ballast").ok());
  EXPECT_FALSE(*Space().Prepare()) << "a second start finds it";
  EXPECT_TRUE(Space().CheckFloor().ok());
  Write("/state/data", 70 << 20);
  EXPECT_TRUE(absl::IsResourceExhausted(Space().CheckFloor()));
  EXPECT_TRUE(*Space().Prepare()) << "given up";
  EXPECT_FALSE(disk_.Stat("/state/ballast").ok());
  EXPECT_FALSE(*Space().Prepare()) << "there is none any more";
  ASSERT_TRUE(disk_.Remove("/state/data").ok());
  EXPECT_FALSE(*Space().Prepare());
  EXPECT_TRUE(disk_.Stat("/state/ballast").ok()) << "made again once there is room";
}

TEST_F(StoreSpaceTest, AReserveThatCannotBeMadeIsDoneWithout) {
  Write("/state/data", 55 << 20);
  EXPECT_FALSE(*Space().Prepare()) << "beside the floor there is no room for it";
  EXPECT_FALSE(disk_.Stat("/state/ballast").ok());
  ASSERT_TRUE(disk_.Remove("/state/data").ok());
  const auto full = NewHookedFileSystem(&disk_, [](FileOperation operation, const std::string& path) {
    return operation == FileOperation::kReserve ? absl::ResourceExhaustedError("reserve " + path) : absl::OkStatus();
  });
  const StoreSpace space(full.get(), {.folder = "/state", .floor_bytes = 40 << 20, .ballast_bytes = 10 << 20});
  EXPECT_FALSE(*space.Prepare());
  EXPECT_FALSE(disk_.Stat("/state/ballast").ok()) << "half of it would be in the way";
}

TEST_F(StoreSpaceTest, NoneIsNone) {
  const StoreSpace none(&disk_, {.folder = "/state", .floor_bytes = 0, .ballast_bytes = 0});
  EXPECT_FALSE(*none.Prepare());
  EXPECT_FALSE(disk_.Stat("/state/ballast").ok());
  Write("/state/data", 99 << 20);
  EXPECT_TRUE(none.CheckFloor().ok());
}

}  // namespace
}  // namespace vlm::coordinator
