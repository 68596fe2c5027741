#include "model/init.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

namespace vlm::model {
namespace {

ParamSpec Spec(const char* name, Init init) {
  return {name, {300, 101}, Encoding::kCompute, init, DecayClass::kMatrix};
}

TEST(InitTest, IsAFunctionOfSeedAndNameAlone) {
  const ParamSpec spec = Spec("a.weight", {Init::Kind::kNormal, 0.02});
  const at::Tensor first = Initialize(spec, 7);
  at::set_num_threads(2);
  const at::Tensor second = Initialize(spec, 7);
  at::set_num_threads(1);
  EXPECT_TRUE(at::equal(first, second));
  EXPECT_FALSE(at::equal(first, Initialize(spec, 8)));
  EXPECT_FALSE(at::equal(first, Initialize(Spec("b.weight", spec.init), 7)));
}

TEST(InitTest, HasTheAskedMoments) {
  const at::Tensor normal = Initialize(Spec("w", {Init::Kind::kNormal, 0.02}), 1);
  EXPECT_NEAR(normal.mean().item<double>(), 0, 0.0005);
  EXPECT_NEAR(normal.std().item<double>(), 0.02, 0.0005);
  EXPECT_NEAR((normal / 0.02).pow(4).mean().item<double>(), 3.0, 0.2);  // kurtosis of a normal
  EXPECT_GT(normal.abs().max().item<double>(), 0.07);                   // not truncated
  const at::Tensor uniform = Initialize(Spec("w", {Init::Kind::kUniform, 0.02}), 1);
  EXPECT_NEAR(uniform.std().item<double>(), 0.02, 0.0005);
  EXPECT_LE(uniform.abs().max().item<double>(), 0.02 * 1.7320509);
  EXPECT_NEAR((uniform / 0.02).pow(4).mean().item<double>(), 1.8, 0.05);
  EXPECT_EQ(Initialize(Spec("w", {Init::Kind::kZeros, 0}), 1).abs().max().item<double>(), 0);
  EXPECT_EQ(Initialize(Spec("w", {Init::Kind::kOnes, 0}), 1).min().item<double>(), 1);
}

}  // namespace
}  // namespace vlm::model
