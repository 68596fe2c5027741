#include "train/objective.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

namespace vlm::train {
namespace {

struct Case {
  model::MicroBatch batch;
  at::Tensor logits_KV;
  model::Values results;
};

Case MakeCase() {
  const int64_t targets = 6, vocabulary = 11;
  Case c;
  c.logits_KV = at::sin(at::arange(targets * vocabulary, at::kDouble) * 1.7).view({targets, vocabulary}) * 3;
  c.batch.target_id_K = at::tensor({3, 0, 10, 4, 4, 7}, at::kLong);
  c.batch.target_weight_K = at::tensor({1.0, 0.5, 0.0, 2.0, 1.0, 1.0}, at::kFloat);
  const at::Tensor lse_K = c.logits_KV.logsumexp(1);
  const at::Tensor target_K = c.logits_KV.gather(1, c.batch.target_id_K.unsqueeze(1)).squeeze(1);
  c.results = {(target_K - lse_K).to(at::kFloat), lse_K.to(at::kFloat), c.logits_KV.mean(1).to(at::kFloat)};
  return c;
}

TEST(CrossEntropyTest, LossIsTorchsWeightedSumOverTheGlobalWeight) {
  for (double smoothing : {0.0, 0.1}) {
    const Case c = MakeCase();
    const GlobalCounts global{20.0};
    const at::Tensor losses =
        at::cross_entropy_loss(c.logits_KV, c.batch.target_id_K, {}, at::Reduction::None, -100, smoothing);
    const double expected = (losses * c.batch.target_weight_K).sum().item<double>() / 20.0;
    const auto objective = NewCrossEntropy(smoothing, 11).value();
    EXPECT_NEAR(objective->Loss(c.results, c.batch, global), expected, 1e-6);
  }
}

TEST(CrossEntropyTest, CoefficientsAndSeedsAreTheGradient) {
  for (double smoothing : {0.0, 0.1}) {
    Case c = MakeCase();
    const GlobalCounts global{20.0};
    at::Tensor logits_KV = c.logits_KV.clone().requires_grad_(true);
    const at::Tensor losses =
        at::cross_entropy_loss(logits_KV, c.batch.target_id_K, {}, at::Reduction::None, -100, smoothing);
    const at::Tensor loss = (losses * c.batch.target_weight_K).sum() / 20.0;
    const at::Tensor expected = torch::autograd::grad({loss}, {logits_KV})[0];

    const auto objective = NewCrossEntropy(smoothing, 11).value();
    const model::TokenCoefficients known = objective->Known(c.batch, global).value();
    const at::Tensor onehot_KV = at::one_hot(c.batch.target_id_K, 11).to(at::kDouble);
    const at::Tensor by_coefficients =
        known.a_K.unsqueeze(1) * onehot_KV + known.b_K.unsqueeze(1) * c.logits_KV.softmax(1) + known.c_K.unsqueeze(1);
    EXPECT_TRUE(at::allclose(by_coefficients, expected, 1e-5, 1e-8));

    const model::Values seeds = objective->Seeds(c.batch, global);
    at::Tensor again_KV = c.logits_KV.clone().requires_grad_(true);
    const at::Tensor lse_K = again_KV.logsumexp(1);
    at::Tensor sum = (seeds[0] * (again_KV.gather(1, c.batch.target_id_K.unsqueeze(1)).squeeze(1) - lse_K)).sum();
    EXPECT_EQ(seeds[1].defined(), smoothing > 0);
    if (smoothing > 0) sum = sum + (seeds[1] * lse_K).sum() + (seeds[2] * again_KV.mean(1)).sum();
    EXPECT_TRUE(at::allclose(torch::autograd::grad({sum}, {again_KV})[0], expected, 1e-5, 1e-8));
  }
}

TEST(CrossEntropyTest, BadSettingsAreRefused) {
  EXPECT_FALSE(NewCrossEntropy(1.0, 10).ok());
  EXPECT_FALSE(NewCrossEntropy(-0.1, 10).ok());
  EXPECT_FALSE(NewCrossEntropy(0.1, 0).ok());
  EXPECT_TRUE(NewCrossEntropy(0.0, 0).ok());
}

}  // namespace
}  // namespace vlm::train
