// NCCL behind train/collective.h: one rank on one GPU against the collective of one rank, two ranks where there are two
// GPUs against the ordered sum.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/check.h"
#include "base/random.h"
#include "tests/unit/train/llava_run.h"
#include "tests/unit/train/thread_collective.h"
#include "train/cuda/cuda_library.h"

namespace vlm::train {
namespace {

using ::testing::HasSubstr;

at::Tensor RandomTensor(uint64_t seed, int64_t numel) {
  at::Tensor tensor = at::empty({numel}, at::kFloat);
  Rng rng(RngKey{seed});
  float* const data = tensor.data_ptr<float>();
  for (int64_t i = 0; i < numel; ++i) data[i] = static_cast<float>(rng.Normal());
  return tensor;
}

const NcclBackend* Backend() {
  const absl::StatusOr<const NcclBackend*> backend = LoadNcclBackend();
  VLM_CHECK(backend.ok(), std::string(backend.status().message()));
  return *backend;
}

std::unique_ptr<Collective> OneRank() {
  absl::StatusOr<std::unique_ptr<Collective>> collective =
      Backend()->Connect({.unique_id = Backend()->NewUniqueId().value()}, NewSingleRankCollective());
  VLM_CHECK(collective.ok(), std::string(collective.status().message()));
  return *std::move(collective);
}

TEST(NcclTest, OneRankGivesTheBitsOfTheSingleRankCollective) {
  const std::unique_ptr<Collective> nccl = OneRank(), single = NewSingleRankCollective();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t numel : {1, 100, 700'001}) {
      at::Tensor send = nccl->Allocate(numel, type, "send").value();
      EXPECT_TRUE(send.is_cuda());
      send.copy_(RandomTensor(1, numel));
      at::Tensor expected = RandomTensor(2, numel).to(at::kCUDA), actual = expected.clone();
      for (const bool contributes : {true, false, true}) {
        ASSERT_TRUE(single->ReduceScatterAdd(send, contributes, expected, "gradient").ok());
        const absl::Status status = nccl->ReduceScatterAdd(send, contributes, actual, "gradient");
        ASSERT_TRUE(status.ok()) << status;
        EXPECT_TRUE(at::equal(actual, expected)) << type << " " << numel << " " << contributes;
      }
      at::Tensor full = at::zeros_like(send);
      ASSERT_TRUE(nccl->AllGather(send, full, "weights").ok());
      EXPECT_TRUE(at::equal(full, send));
      ASSERT_TRUE(nccl->AllGather(full, full, "weights").ok()) << "in place";
      EXPECT_TRUE(at::equal(full, send));
    }
  }
  EXPECT_EQ(nccl->AllGatherBytes("header", "tag").value(), std::vector<std::string>{"header"});
  EXPECT_TRUE(nccl->Barrier("tag").ok());
  EXPECT_TRUE(nccl->health().ok());
}

TEST(NcclTest, AnOperationFollowsWhatTheCallersStreamHolds) {
  const std::unique_ptr<Collective> nccl = OneRank();
  const at::Tensor factor = at::ones({2048, 2048}, at::kCUDA);
  at::Tensor product = factor;
  for (int i = 0; i < 20; ++i) product = at::mm(product, factor).div_(2048);  // long enough to be still on its way
  at::Tensor accumulator = at::zeros({product.numel()}, at::kCUDA);
  ASSERT_TRUE(nccl->ReduceScatterAdd(product.flatten(), true, accumulator, "late").ok());
  EXPECT_TRUE(at::equal(accumulator, at::ones_like(accumulator)));
}

TEST(NcclTest, TensorsOfAnotherDeviceAreRefusedByName) {
  const std::unique_ptr<Collective> nccl = OneRank();
  const absl::Status status = nccl->ReduceScatterAdd(at::ones({4}), true, at::zeros({4}, at::kCUDA), "gradient");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("send lies on cpu"));
}

TEST(NcclTest, AfterAnAbortEveryCallReturnsIt) {
  const std::unique_ptr<Collective> nccl = OneRank();
  nccl->Abort("the worker is going away");
  at::Tensor accumulator = at::zeros({4}, at::kCUDA);
  EXPECT_EQ(nccl->ReduceScatterAdd(accumulator.clone(), true, accumulator, "a").code(), absl::StatusCode::kAborted);
  EXPECT_EQ(nccl->Barrier("b").code(), absl::StatusCode::kAborted);
  EXPECT_EQ(nccl->health().code(), absl::StatusCode::kAborted);
}

TEST(NcclTest, ARankThatNeverComesEndsInADeadline) {
  ThreadGang gang(2);
  const absl::Status status =
      Backend()
          ->Connect({.unique_id = Backend()->NewUniqueId().value(), .deadline = absl::Seconds(3)}, gang.Rank(0))
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
}

TEST(NcclTest, AnIdOfAnotherLengthIsRefused) {
  const absl::Status status = Backend()->Connect({.unique_id = "short"}, NewSingleRankCollective()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
}

TEST(NcclTest, TrainingThroughOneNcclRankIsTrainingOnOneRank) {
  LlavaRunOptions options;
  options.config = model::testing::SmallLlava();
  options.documents = {{options.config.ImageTokens() + 7, 1}, {9, 0}};
  options.device = at::kCUDA;
  LlavaRun plain(options);
  options.overlap = true;
  LlavaRun through_nccl(options, OneRank());
  for (int step = 1; step <= 4; ++step) {
    const double expected = plain.Step().loss, actual = through_nccl.Step().loss;
    EXPECT_NEAR(actual, expected, 1e-5 * expected) << "step " << step;
  }
}

// Ranks as threads, each with a GPU of its own.
void RunOnTwoGpus(const std::function<void(Collective*)>& body) {
  ThreadGang gang(2);
  const std::string id = Backend()->NewUniqueId().value();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      absl::StatusOr<std::unique_ptr<Collective>> nccl =
          Backend()->Connect({.device = rank, .unique_id = id}, gang.Rank(rank));
      VLM_CHECK(nccl.ok(), std::string(nccl.status().message()));
      body(nccl->get());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(NcclTest, TwoRanksAddInRankOrderBitForBit) {
  if (at::getNumGPUs() < 2) GTEST_SKIP() << "needs two GPUs, this machine shows " << at::getNumGPUs();
  RunOnTwoGpus([](Collective* collective) {
    const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(collective->rank()));
    const int64_t shard = 100'003;
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      for (const bool first_contributes : {true, false}) {
        const at::Tensor send = RandomTensor(static_cast<uint64_t>(collective->rank()), 2 * shard).to(device, type);
        at::Tensor accumulator = RandomTensor(9, shard).to(device);
        at::Tensor expected = RandomTensor(9, shard);
        for (int rank = first_contributes ? 0 : 1; rank < 2; ++rank) {
          const at::Tensor theirs = RandomTensor(static_cast<uint64_t>(rank), 2 * shard).to(type).to(at::kFloat);
          expected += theirs.narrow(0, collective->rank() * shard, shard);
        }
        const bool contributes = first_contributes || collective->rank() == 1;
        const absl::Status status = collective->ReduceScatterAdd(send, contributes, accumulator, "gradient");
        ASSERT_TRUE(status.ok()) << status;
        EXPECT_TRUE(at::equal(accumulator.cpu(), expected)) << type << " " << first_contributes;
      }
    }
  });
}

TEST(NcclTest, TwoRanksThatDisagreeHearOfBoth) {
  if (at::getNumGPUs() < 2) GTEST_SKIP() << "needs two GPUs, this machine shows " << at::getNumGPUs();
  RunOnTwoGpus([](Collective* collective) {
    const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(collective->rank()));
    const absl::Status status = collective->ReduceScatterAdd(at::ones({8}, device), true, at::zeros({4}, device),
                                                             collective->rank() == 0 ? "llm.blocks.0" : "llm.blocks.1");
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("llm.blocks.0"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("llm.blocks.1"));
  });
}

}  // namespace
}  // namespace vlm::train
