#include "worker/rank_environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vlm::worker {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Not;
using testing::StartsWith;

RankSurroundings OnDevice(v1::DeviceKind kind) {
  RankSurroundings surroundings{.passed_on = {"PATH=/bin"},
                                .socket = "/run/worker.sock",
                                .token = "secret",
                                .worker_pid = 17,
                                .guard_fd = 3,
                                .rank = {"aa/5", 5, 1},
                                .device = {}};
  surroundings.device.set_kind(kind);
  surroundings.device.set_uuid("GPU-1");
  surroundings.device.set_threads(2);
  return surroundings;
}

TEST(RankEnvironmentTest, HoldsWhatIsPassedOnAndOurWords) {
  EXPECT_THAT(RankEnvironment(OnDevice(v1::DEVICE_KIND_CPU_SLOT)),
              ElementsAre("PATH=/bin", "VLM_WORKER_SOCKET=/run/worker.sock", "VLM_ATTEMPT_ID=aa/5", "VLM_RANK=1",
                          "VLM_ATTEMPT_TOKEN=secret", "VLM_WORKER_PID=17", "VLM_WORKER_GUARD_FD=3", "OMP_NUM_THREADS=2",
                          "MKL_NUM_THREADS=2", "OPENBLAS_NUM_THREADS=2"));
}

TEST(RankEnvironmentTest, ARankOfAGpuSeesOnlyItsOwnAndTalksOverLoopback) {
  const std::vector<std::string> environment = RankEnvironment(OnDevice(v1::DEVICE_KIND_CUDA));
  EXPECT_THAT(environment, Contains("CUDA_VISIBLE_DEVICES=GPU-1"));
  EXPECT_THAT(environment, Contains("NCCL_SOCKET_IFNAME=lo"));
}

TEST(RankEnvironmentTest, ThreadsAreAtLeastOne) {
  RankSurroundings surroundings = OnDevice(v1::DEVICE_KIND_CPU_SLOT);
  surroundings.device.set_threads(0);
  EXPECT_THAT(RankEnvironment(surroundings), Contains("OMP_NUM_THREADS=1"));
  EXPECT_THAT(RankEnvironment(surroundings), Not(Contains(StartsWith("CUDA_VISIBLE_DEVICES="))));
}

}  // namespace
}  // namespace vlm::worker
