#include "train/adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/random.h"
#include "toy_model.h"
#include "train/gradient_norm.h"
#include "train/selection.h"

namespace vlm::train {
namespace {

at::Tensor Noise(const std::string& stream, int64_t count, double deviation) {
  Rng rng(RngKey{5}.Derive(stream));
  const at::Tensor values = at::empty({count}, at::kFloat);
  for (int64_t i = 0; i < count; ++i)
    values.mutable_data_ptr<float>()[i] = static_cast<float>(deviation * rng.Normal());
  return values;
}

void WriteRaw(const std::string& path, const at::Tensor& values) {
  std::ofstream(path, std::ios::binary)
      .write(static_cast<const char*>(values.const_data_ptr()), static_cast<std::streamsize>(values.nbytes()));
}

template <typename T>
std::vector<T> ReadRaw(const std::string& path, size_t count) {
  std::vector<T> values(count);
  std::ifstream(path, std::ios::binary)
      .read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
  return values;
}

bool EqualBits(const at::Tensor& a, const at::Tensor& b) {
  return std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

struct State {
  at::Tensor p, m, v;
  explicit State(int64_t count) : p(Noise("p", count, 1)), m(at::zeros({count})), v(at::zeros({count})) {}
};

TEST(AdamWTest, AgreesWithTorchOverManySteps) {
  const int64_t count = 2 * kBlockElements;
  const int steps = 30;
  const double lr = 3e-3, decay = 0.1, clip = 50;
  const std::string folder = testing::TempDir() + "adamw_oracle";
  ASSERT_EQ(std::system(("mkdir -p " + folder).c_str()), 0);
  State state(count);
  WriteRaw(folder + "/parameters.bin", state.p);
  std::vector<double> norms;
  for (int t = 1; t <= steps; ++t) {
    const at::Tensor g = Noise("g" + std::to_string(t), count, t % 3 == 0 ? 1e-4 : 1.0);
    WriteRaw(folder + "/gradient_" + std::to_string(t) + ".bin", g);
    double squares = 0;
    for (double sum : BlockSquareSums(g)) squares += sum;
    norms.push_back(std::sqrt(squares));
    AdamWUpdate({lr, decay, 0.9, 0.999, 1e-8, t, ClipCoefficient(norms.back(), clip)}, state.p, state.m, state.v, g);
  }
  const std::string command = std::string(VLM_ORACLE_PYTHON) + " " + VLM_SOURCE_DIR +
                              "/tests/unit/train/adamw_oracle.py " + folder + " " + std::to_string(count) + " " +
                              std::to_string(steps) + " 3e-3 0.1 50";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const std::vector<float> expected = ReadRaw<float>(folder + "/expected.bin", static_cast<size_t>(count));
  const std::vector<double> expected_norms = ReadRaw<double>(folder + "/norms.bin", steps);
  for (int t = 0; t < steps; ++t) EXPECT_NEAR(norms[t], expected_norms[t], 1e-5 * expected_norms[t]);
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_NEAR(state.p.const_data_ptr<float>()[i], expected[i], 2e-6 * (1 + std::abs(expected[i]))) << i;
  }
}

TEST(AdamWTest, BitsDoNotDependOnWhereAShardEnds) {
  const int64_t count = 1001;
  State whole(count), cut(count);
  for (int t = 1; t <= 5; ++t) {
    const at::Tensor g = Noise("g" + std::to_string(t), count, 1);
    const AdamWScalars scalars{1e-3, 0.1, 0.9, 0.999, 1e-8, t, 0.37};
    AdamWUpdate(scalars, whole.p, whole.m, whole.v, g);
    for (int64_t begin = 0; begin < count;) {
      const int64_t size = std::min<int64_t>(count - begin, 1 + (begin * 7 + t) % 23);
      const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, begin, size); };
      AdamWUpdate(scalars, part(cut.p), part(cut.m), part(cut.v), part(g));
      begin += size;
    }
  }
  EXPECT_TRUE(EqualBits(whole.p, cut.p));
  EXPECT_TRUE(EqualBits(whole.m, cut.m));
  EXPECT_TRUE(EqualBits(whole.v, cut.v));
}

TEST(GradientNormTest, BlockSumsAreFp64) {
  const at::Tensor g = Noise("norm", 3 * kBlockElements, 2);
  const std::vector<double> sums = BlockSquareSums(g);
  ASSERT_EQ(sums.size(), 3u);
  for (int64_t block = 0; block < 3; ++block) {
    const double expected =
        g.narrow(0, block * kBlockElements, kBlockElements).to(at::kDouble).square().sum().item<double>();
    EXPECT_NEAR(sums[static_cast<size_t>(block)], expected, 1e-12 * expected);
  }
}

TEST(GradientNormTest, ClipCoefficient) {
  EXPECT_EQ(ClipCoefficient(5, 0), 1.0);
  EXPECT_EQ(ClipCoefficient(0.5, 1), 1.0);
  EXPECT_DOUBLE_EQ(ClipCoefficient(4, 1), 1 / (4 + 1e-6));
}

class GroupsTest : public testing::Test {
 protected:
  absl::StatusOr<GroupTable> Resolve(const AdamWOptions& options, const std::vector<std::string>& trainable = {}) {
    buckets_ = PlanBuckets(graph_, SelectTrainable(graph_, trainable).value(), 2);
    return ResolveGroups(graph_, buckets_, options);
  }
  ParameterGroup Of(const GroupTable& table, const std::string& name) {
    return table.groups[static_cast<size_t>(table.group_of_param[static_cast<size_t>(graph_.FindParam(name))])];
  }
  const model::Graph graph_ = ToyGraph();
  std::vector<BucketSpec> buckets_;
};

TEST_F(GroupsTest, DefaultsDecayMatricesAndEmbeddingsOnly) {
  AdamWOptions options;
  options.lr = 1e-3;
  options.weight_decay = 0.1;
  const GroupTable table = Resolve(options).value();
  EXPECT_EQ(Of(table, "language_model.embed.weight"), (ParameterGroup{1e-3, 0.1}));
  EXPECT_EQ(Of(table, "language_model.layers.0.norm.bias"), (ParameterGroup{1e-3, 0.0}));
}

TEST_F(GroupsTest, LaterRulesWin) {
  AdamWOptions options;
  options.lr = 1e-3;
  options.weight_decay = 0.1;
  options.rules = {
      {"llm", 2e-4, std::nullopt}, {"llm.blocks[-1:]", 5e-4, std::nullopt}, {"*.bias", std::nullopt, 0.02}};
  const GroupTable table = Resolve(options).value();
  EXPECT_EQ(Of(table, "language_model.layers.0.up.weight"), (ParameterGroup{2e-4, 0.1}));
  EXPECT_EQ(Of(table, "language_model.layers.2.up.weight"), (ParameterGroup{5e-4, 0.1}));
  EXPECT_EQ(Of(table, "language_model.layers.2.up.bias"), (ParameterGroup{5e-4, 0.02}));
  EXPECT_EQ(Of(table, "multi_modal_projector.linear.weight"), (ParameterGroup{1e-3, 0.1}));
  EXPECT_NE(table.ToString(graph_).find("lr 0.0005"), std::string::npos);
}

TEST_F(GroupsTest, AGlobIsNoNodeAndNoPrefix) {
  AdamWOptions options;
  options.lr = 1e-3;
  options.rules = {{"*.layers.?.up.weight", 5e-4, std::nullopt, Naming::kGlob}};
  const GroupTable table = Resolve(options).value();
  EXPECT_EQ(Of(table, "language_model.layers.1.up.weight").lr, 5e-4);
  EXPECT_EQ(Of(table, "language_model.layers.1.up.bias").lr, 1e-3);
  options.rules[0].pattern = "llm";
  EXPECT_EQ(Resolve(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.rules[0].naming = Naming::kSelection;
  EXPECT_TRUE(Resolve(options).ok());
}

TEST_F(GroupsTest, RangesCoverExactlyTheTrainableParameters) {
  AdamWOptions options;
  options.lr = 1e-3;
  const GroupTable table = Resolve(options, {"connector"}).value();
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    EXPECT_EQ(table.ranges[bucket].size(), buckets_[bucket].trainable ? buckets_[bucket].ranges.size() : 0u);
  }
  EXPECT_EQ(table.group_of_param[static_cast<size_t>(graph_.FindParam("language_model.embed.weight"))], -1);
}

TEST_F(GroupsTest, MistakesAreErrorsThatNameThem) {
  AdamWOptions options;
  options.lr = 1e-3;
  options.rules = {{"conector", 1e-4, std::nullopt}};
  EXPECT_NE(Resolve(options).status().message().find("conector"), absl::string_view::npos);
  options.rules = {{"llm", 1e-4, std::nullopt}};
  EXPECT_NE(Resolve(options, {"connector"}).status().message().find("only frozen parameters"), absl::string_view::npos);
  options.lr.reset();
  EXPECT_NE(Resolve(options).status().message().find("vision_tower.embed.weight"), absl::string_view::npos);
  options = {};
  options.lr = -1;
  EXPECT_EQ(Resolve(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.lr = 1e-3;
  options.beta2 = 1.0;
  EXPECT_EQ(Resolve(options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace vlm::train
