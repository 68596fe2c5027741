// The engine on a device whose memory the host cannot read: what a GPU run asks of it, where there is no GPU.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "foreign_device.h"
#include "gang_run.h"
#include "llava_run.h"
#include "model/device_batch.h"
#include "model/ops/rows.h"
#include "thread_collective.h"
#include "train/checkpoint_state.h"

namespace vlm::train {
namespace {

LlavaRunOptions OptionsOn(at::Device device, at::ScalarType compute, bool recompute = false) {
  LlavaRunOptions options;
  options.config = model::testing::SmallLlava();
  options.documents = {{options.config.ImageTokens() + 7, 1}, {9, 0}};
  options.device = device;
  options.compute = compute;
  options.recompute = recompute;
  return options;
}

TEST(ForeignDeviceTest, ItsMemoryMeansNothingToTheHost) {
  const at::Tensor host = at::arange(6, at::kFloat).view({2, 3});
  const at::Tensor foreign = host.to(ForeignDevice());
  EXPECT_NE(std::memcmp(foreign.const_data_ptr(), host.const_data_ptr(), host.nbytes()), 0);
  EXPECT_TRUE(at::equal(foreign.t().mul(2).to(at::kCPU), host.t().mul(2)));
  EXPECT_THROW(foreign + host, c10::Error);
}

struct Program {
  at::ScalarType compute;
  bool recompute;
  double tolerance;  // relative, of losses and norms: plain definitions here, fused bodies on the CPU
};

class DeviceTest : public ::testing::TestWithParam<Program> {};

TEST_P(DeviceTest, AStepOnAnotherDeviceIsTheStepOnTheCpu) {
  const Program& program = GetParam();
  LlavaRun cpu(OptionsOn(at::kCPU, program.compute, program.recompute));
  LlavaRun foreign(OptionsOn(ForeignDevice(), program.compute, program.recompute));
  for (int step = 1; step <= 3; ++step) {
    const StepResult expected = cpu.Step(), actual = foreign.Step();
    EXPECT_LT(std::abs(actual.loss - expected.loss), program.tolerance * expected.loss) << "step " << step;
    EXPECT_LT(std::abs(actual.gradient_norm - expected.gradient_norm), 10 * program.tolerance * expected.gradient_norm)
        << "step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(All, DeviceTest,
                         ::testing::Values(Program{at::kFloat, false, 1e-5}, Program{at::kFloat, true, 1e-5},
                                           Program{at::kBFloat16, false, 1e-2}));

TEST(DeviceStateTest, ASaveCopiesTheDevicesBytesOut) {
  LlavaRun cpu(OptionsOn(at::kCPU, at::kFloat)), foreign(OptionsOn(ForeignDevice(), at::kFloat));
  const std::vector<FileImage> expected = SaveState(PlanState(*cpu.store(), {}), cpu.store()).value();
  const std::vector<FileImage> actual = SaveState(PlanState(*foreign.store(), {}), foreign.store()).value();
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(actual[i].text, expected[i].text);
    ASSERT_EQ(actual[i].tensors.size(), expected[i].tensors.size());
    for (size_t t = 0; t < expected[i].tensors.size(); ++t) {
      EXPECT_TRUE(std::ranges::equal(actual[i].tensors[t].bytes(), expected[i].tensors[t].bytes()))
          << expected[i].tensors[t].name;
    }
  }
}

// A bf16 sum of 1s ends at 256: the next one no longer moves it.
TEST(DeviceOpsTest, Bf16RowGradientsOfManyTokensAreNotLost) {
  const at::Tensor slot = at::zeros({3, 2}, at::kBFloat16).to(ForeignDevice());
  const at::Tensor ids = at::full({400}, 1, at::kLong).to(ForeignDevice());
  model::ops::AddEmbeddingGradient(at::ones({400, 2}, at::kBFloat16).to(ForeignDevice()), ids, slot);
  EXPECT_TRUE(at::equal(slot.to(at::kCPU)[1], at::full({2}, 400, at::kBFloat16)));
}

TEST(DeviceBatchTest, TensorsThatAreThereAreShared) {
  const model::LlavaConfig config = model::testing::SmallLlava();
  const model::MicroBatch batch = model::testing::RandomBatch(config, {{config.ImageTokens() + 7, 1}}, 5);
  const model::MicroBatch moved = model::MoveTo(batch, at::kCPU);
  EXPECT_EQ(moved.ids_N.const_data_ptr(), batch.ids_N.const_data_ptr());
  EXPECT_EQ(moved.pixels.const_data_ptr(), batch.pixels.const_data_ptr());
  EXPECT_EQ(moved.document_starts, batch.document_starts);
  EXPECT_EQ(moved.counts.targets, batch.counts.targets);
}

TEST(DeviceStoreTest, ACollectiveOfAnotherDeviceIsRefused) {
  const model::Graph graph = ToyGraph();
  const auto trainable = SelectTrainable(graph, {}).value();
  RunRanks(2, [&](Collective* collective) {
    CommunicationQueue queue(/*overlap=*/false, RealClock());
    const absl::Status status = ParameterStore::Create(&graph, PlanBuckets(graph, trainable, 2),
                                                       {.device = ForeignDevice()}, collective, &queue)
                                    .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  });
}

}  // namespace
}  // namespace vlm::train
