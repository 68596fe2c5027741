// The step on CUDA tensors against the step on CPU, which is the definition.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "tests/unit/train/llava_run.h"
#include "train/checkpoint_state.h"
#include "train/gradient_norm.h"

namespace vlm::train {
namespace {

constexpr int kSteps = 6;

LlavaRunOptions OptionsOn(at::Device device, at::ScalarType compute) {
  LlavaRunOptions options;
  options.config = model::testing::SmallLlava();
  options.documents = {{options.config.ImageTokens() + 7, 1}, {9, 0}, {17, 0}};
  options.device = device;
  options.compute = compute;
  return options;
}

double RelativeDifference(double a, double b) { return std::abs(a - b) / std::abs(b); }

struct Precision {
  at::ScalarType compute;
  double loss, norm;  // relative differences allowed
};

class TrainingOnGpuTest : public ::testing::TestWithParam<Precision> {};

TEST_P(TrainingOnGpuTest, LossesAndNormsAreThoseOfTheCpu) {
  LlavaRun cpu(OptionsOn(at::kCPU, GetParam().compute)), gpu(OptionsOn(at::kCUDA, GetParam().compute));
  for (int step = 1; step <= kSteps; ++step) {
    const StepResult expected = cpu.Step(), actual = gpu.Step();
    EXPECT_LT(RelativeDifference(actual.loss, expected.loss), GetParam().loss) << "step " << step;
    EXPECT_LT(RelativeDifference(actual.gradient_norm, expected.gradient_norm), GetParam().norm) << "step " << step;
    EXPECT_FALSE(actual.non_finite);
  }
}

INSTANTIATE_TEST_SUITE_P(All, TrainingOnGpuTest,
                         ::testing::Values(Precision{at::kFloat, 1e-4, 1e-3}, Precision{at::kBFloat16, 2e-2, 1e-1}));

TEST(TrainingOnGpuTest, OverlapChangesNothingOnOneRank) {
  LlavaRunOptions options = OptionsOn(at::kCUDA, at::kFloat);
  LlavaRun inline_run(options);
  options.overlap = true;
  LlavaRun overlapped(options);
  // Kernels with atomics may round otherwise from run to run, so this too is a tolerance.
  for (int step = 1; step <= kSteps; ++step) {
    EXPECT_LT(RelativeDifference(overlapped.Step().loss, inline_run.Step().loss), 1e-5) << "step " << step;
  }
}

TEST(GradientNormOnGpuTest, BlockSumsAreThoseOfTheCpu) {
  const at::Tensor gradient = at::linspace(-3, 5, 6 * kBlockElements, at::kFloat);
  const std::vector<double> expected = BlockSquareSums(gradient), actual = BlockSquareSums(gradient.to(at::kCUDA));
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_LT(RelativeDifference(actual[i], expected[i]), 1e-12);
}

class MemorySource final : public TensorSource {
 public:
  MemorySource(const std::vector<FileImage>& files, bool optimizer) {
    for (const FileImage& file : files) {
      if (file.is_text() || (file.name.rfind("optimizer", 0) == 0) != optimizer) continue;
      for (const TensorImage& tensor : file.tensors) tensors_[tensor.name] = &tensor;
    }
  }
  std::vector<Info> List() const override {
    std::vector<Info> all;
    for (const auto& [name, tensor] : tensors_) all.push_back({name, tensor->dtype, tensor->shape});
    return all;
  }
  absl::Status Read(const std::string& name, uint64_t offset, std::span<std::byte> out) override {
    std::memcpy(out.data(), tensors_.at(name)->bytes().data() + offset, out.size());
    return absl::OkStatus();
  }

 private:
  std::map<std::string, const TensorImage*> tensors_;
};

std::vector<FileImage> Save(LlavaRun* run) { return SaveState(PlanState(*run->store(), {}), run->store()).value(); }

TEST(StateOnGpuTest, AStateSavedFromTheGpuIsTheSameOnTheCpuAndBack) {
  LlavaRun gpu(OptionsOn(at::kCUDA, at::kFloat));
  for (int step = 0; step < 2; ++step) gpu.Step();
  const std::vector<FileImage> saved = Save(&gpu);
  std::string json;
  for (const FileImage& file : saved) {
    if (file.name == kOptimizerJson) json = file.text;
  }
  for (const at::DeviceType device : {at::kCPU, at::kCUDA}) {
    LlavaRun loaded(OptionsOn(device, at::kFloat));
    MemorySource weights(saved, false), optimizer(saved, true);
    const absl::Status status = LoadState(&weights, &optimizer, json, loaded.store());
    ASSERT_TRUE(status.ok()) << status;
    const std::vector<FileImage> again = Save(&loaded);
    ASSERT_EQ(again.size(), saved.size());
    for (size_t i = 0; i < saved.size(); ++i) {
      EXPECT_EQ(again[i].text, saved[i].text);
      for (size_t t = 0; t < saved[i].tensors.size(); ++t) {
        EXPECT_TRUE(std::ranges::equal(again[i].tensors[t].bytes(), saved[i].tensors[t].bytes()))
            << saved[i].tensors[t].name;
      }
    }
  }
}

}  // namespace
}  // namespace vlm::train
