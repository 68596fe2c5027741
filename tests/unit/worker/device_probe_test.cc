#include "worker/device_probe.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/file_system.h"

namespace vlm::worker {
namespace {

TEST(DeviceProbeTest, CpuSlotsAreNumbered) {
  const auto slots = CpuSlots(3, 2);
  ASSERT_EQ(slots.size(), 3u);
  EXPECT_EQ(slots[2].index(), 2);
  EXPECT_EQ(slots[2].threads(), 2);
  EXPECT_EQ(slots[2].kind(), v1::DEVICE_KIND_CPU_SLOT);
}

TEST(DeviceProbeTest, GpusAreReadFromTheDriversFiles) {
  const std::string root = testing::TempDir() + "/proc_nvidia";
  ASSERT_TRUE(RemoveTree(PosixFileSystem(), root).ok());
  EXPECT_TRUE(ProbeGpus(root, 4).empty());
  for (const auto& [bus, uuid] : {std::pair("0000:01:00.0", "GPU-aa"), {"0000:02:00.0", "GPU-bb"}}) {
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), root + "/gpus/" + bus).ok());
    std::ofstream(root + "/gpus/" + bus + "/information")
        << "Model: \t\t NVIDIA H100\nIRQ:   \t\t 42\nGPU UUID: \t " << uuid << "\nVideo BIOS: \t 96\n";
  }
  ASSERT_TRUE(MakeDirectories(PosixFileSystem(), root + "/gpus/0000:03:00.0").ok());  // without information
  const auto gpus = ProbeGpus(root, 4);
  ASSERT_EQ(gpus.size(), 2u);
  EXPECT_EQ(gpus[0].uuid(), "GPU-aa");
  EXPECT_EQ(gpus[1].uuid(), "GPU-bb");
  EXPECT_EQ(gpus[1].index(), 1);
}

TEST(DeviceProbeTest, AGpuHasOneWorker) {
  v1::Device gpu;
  gpu.set_kind(v1::DEVICE_KIND_CUDA);
  gpu.set_uuid("GPU-test");
  auto first = DeviceLocks::Take(testing::TempDir(), {gpu});
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = DeviceLocks::Take(testing::TempDir(), {gpu}).status();
  EXPECT_TRUE(absl::IsAlreadyExists(second));
  EXPECT_NE(std::string(second.message()).find("GPU-test"), std::string::npos);
  first->reset();
  EXPECT_TRUE(DeviceLocks::Take(testing::TempDir(), {gpu}).ok());
  EXPECT_TRUE(DeviceLocks::Take("/nonexistent", CpuSlots(2, 1)).ok()) << "CPU slots need no lock";
}

TEST(DeviceProbeTest, KillsAreCountedByTheNamedControlGroup) {
  const std::string path = testing::TempDir() + "/memory.events";
  std::ofstream(path) << "low 1\nhigh 2\nmax 30\noom 4\noom_kill 17\noom_group_kill 5\n";
  EXPECT_EQ(ReadOutOfMemoryKills(path), 17u);
  EXPECT_EQ(ReadOutOfMemoryKills(testing::TempDir() + "/no-such-group/memory.events"), 0u);
}

TEST(DeviceProbeTest, MemoryIsKnownAndKillsNeverFall) {
  EXPECT_GT(ReadMemoryBytes(), 0u);
  const uint64_t before = ReadOutOfMemoryKills();
  EXPECT_GE(ReadOutOfMemoryKills(), before);
}

}  // namespace
}  // namespace vlm::worker
