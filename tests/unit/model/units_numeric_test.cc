// Every unit's backward against central differences of its definition in fp64, for all parameters and inputs, and the
// loss of whole graphs against its gradients: what a comparison with autograd over the same operations cannot show.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "model/llava.h"
#include "tests/unit/model/graph_runner.h"

namespace vlm::model {
namespace {

using testing::Layout;
using testing::ParameterSet;
using testing::PassOptions;
using testing::PassResult;

constexpr double kStep = 1e-5;
constexpr double kRelative = 1e-6;  // of a central difference with this step, for functions of size one

at::Tensor Random(at::IntArrayRef shape, const std::string& name) {
  at::Tensor result = at::empty(shape, at::kDouble);
  Rng rng(RngKey{17}.Derive(name));
  for (int64_t i = 0; i < result.numel(); ++i) result.mutable_data_ptr<double>()[i] = rng.Normal();
  return result;
}

// Small enough to move every number on its own; sizes differ, so that no two axes can be taken for each other.
LlavaConfig TinyLlava() {
  LlavaConfig config = testing::SmallLlava();
  config.text.vocab_size = 23;
  config.text.hidden_size = 12, config.text.intermediate_size = 10, config.text.head_dim = 4;
  config.text.num_attention_heads = 4, config.text.num_key_value_heads = 2, config.text.num_hidden_layers = 1;
  config.vision.hidden_size = 6, config.vision.intermediate_size = 8, config.vision.num_hidden_layers = 1;
  config.vision.num_attention_heads = 2, config.vision.image_size = 4, config.vision.patch_size = 2;
  return config;
}

struct UnitCase {
  const Node* node;
  UnitContext context;
  Params params;
  Values in;
  Values weights;  // of the outputs, in the scalar that is differentiated; undefined: not part of it

  // sum_i <output_i, weights_i> of the definition.
  double Scalar() const {
    const c10::AutoGradMode definition(true);  // no tensor requires a gradient: nothing is recorded
    const Values out = node->unit->Forward(context, params, in);
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      if (weights[i].defined()) sum += (out[i] * weights[i]).sum().item<double>();
    }
    return sum;
  }
  at::Tensor Numeric(at::Tensor x) const {
    at::Tensor result = at::empty(x.sizes(), at::kDouble);
    for (int64_t i = 0; i < x.numel(); ++i) {
      double* value = x.mutable_data_ptr<double>() + i;
      const double before = *value;
      *value = before + kStep;
      const double up = Scalar();
      *value = before - kStep;
      result.mutable_data_ptr<double>()[i] = (up - Scalar()) / (2 * kStep);
      *value = before;
    }
    return result;
  }
};

void ExpectGradient(const at::Tensor& got, const at::Tensor& numeric, const std::string& what) {
  ASSERT_TRUE(got.defined()) << what;
  ASSERT_EQ(got.sizes(), numeric.sizes()) << what;
  EXPECT_LE((got - numeric).norm().item<double>(), kRelative * numeric.norm().item<double>() + 1e-8) << what;
}

// Answers how many gradients were compared.
int ExpectGradientsAreDifferences(const Graph& graph, const UnitCase& c) {
  const Node& node = *c.node;
  std::vector<bool> needs;
  for (size_t i = 0; i < node.in.size(); ++i) {
    needs.push_back(c.in[i].defined() && graph.values[node.in[i]].differentiable);
  }
  GradSink sink;
  for (const at::Tensor& p : c.params) sink.slots.push_back(at::ones_like(p));  // ones: slots are added to
  const std::vector<bool> trainable(c.params.size(), true);
  const Values d_in =
      node.unit->Record(c.context, c.params, trainable, c.in, needs, Save::kGraph)->Backward(c.weights, &sink);
  int compared = 0;
  for (size_t i = 0; i < c.params.size(); ++i, ++compared) {
    ExpectGradient(sink.slots[i] - 1, c.Numeric(c.params[i]), node.name + ": " + graph.params[node.params[i]].name);
  }
  for (size_t i = 0; i < node.in.size(); ++i) {
    if (!needs[i]) continue;
    ExpectGradient(d_in[i], c.Numeric(c.in[i]), node.name + ": " + graph.values[node.in[i]].name);
    ++compared;
  }
  return compared;
}

struct NumericCase {
  std::string name;
  std::vector<testing::DocumentShape> documents;
  bool tied = true;
  int64_t key_heads = 2;
};

class UnitsNumericTest : public ::testing::TestWithParam<NumericCase> {
 protected:
  void SetUp() override {
    at::set_num_threads(1);  // thousands of tiny operations: threads would only wait
    config_ = TinyLlava();
    config_.text.tie_word_embeddings = GetParam().tied;
    config_.text.num_key_value_heads = GetParam().key_heads;
    auto graph = BuildLlava(config_);
    ASSERT_TRUE(graph.ok()) << graph.status();
    graph_ = std::move(*graph);
    parameters_ = testing::RandomParameters(graph_, 3, at::kDouble, Layout::kFlat);
    batch_ = testing::RandomBatch(config_, GetParam().documents, 4);
  }
  LlavaConfig config_;
  Graph graph_;
  ParameterSet parameters_;
  MicroBatch batch_;

 private:
  c10::NoGradGuard no_grad_;
};

TEST_P(UnitsNumericTest, EveryGradientIsACentralDifference) {
  const PassResult pass = testing::RunPass(graph_, parameters_, batch_, {});
  int compared = 0, expected = 0;
  for (size_t n = 0; n < graph_.nodes.size(); ++n) {
    const Node& node = graph_.nodes[n];
    if (node.when == Presence::kIfImages && batch_.counts.images == 0) continue;
    UnitCase c{&node, {}, parameters_.Of(graph_, static_cast<NodeId>(n)), {}, {}};
    c.context.batch = &batch_;
    for (const ValueId id : node.in) {
      const at::Tensor& value = pass.values[id];
      c.in.push_back(value.defined() ? value.clone() : value);
      expected += value.defined() && graph_.values[id].differentiable;
    }
    expected += static_cast<int>(node.params.size());
    const Values out = node.unit->Forward(c.context, c.params, c.in);
    for (size_t i = 0; i < out.size(); ++i) {
      const bool part = out[i].defined() && graph_.values[node.out[i]].differentiable;
      c.weights.push_back(part ? Random(out[i].sizes(), graph_.values[node.out[i]].name) : at::Tensor());
    }
    compared += ExpectGradientsAreDifferences(graph_, c);
  }
  EXPECT_EQ(compared, expected);
}

// Through all units at once: the loss along one random direction per parameter, so that a gradient that is lost or
// counted twice between units (tied weights, pictures merged into the token axis) is seen.
TEST_P(UnitsNumericTest, TheLossMovesByItsGradients) {
  for (const bool known : {false, true}) {
    const PassOptions options = {.known_coefficients = known, .frozen = {}, .smoothing = 0.1};
    const PassResult pass = testing::RunPass(graph_, parameters_, batch_, options);
    for (size_t i = 0; i < graph_.params.size(); ++i) {
      const std::string& name = graph_.params[i].name;
      const at::Tensor direction = Random(graph_.params[i].shape, name), start = parameters_.tensors[i].clone();
      at::Tensor& parameter = parameters_.tensors[i];
      parameter.copy_(start + kStep * direction);
      const double up = testing::RunPass(graph_, parameters_, batch_, options).loss;
      parameter.copy_(start - kStep * direction);
      const double down = testing::RunPass(graph_, parameters_, batch_, options).loss;
      parameter.copy_(start);
      const double expected = (pass.gradients[i] * direction).sum().item<double>();
      EXPECT_NEAR((up - down) / (2 * kStep), expected, 1e-6 * std::abs(expected) + 1e-7) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Batches, UnitsNumericTest,
                         ::testing::Values(NumericCase{"pictures", {{6, 1}, {3, 0}, {6, 1}}},
                                           NumericCase{"text_untied", {{5, 0}, {1, 0}, {4, 0}}, false, 1},
                                           NumericCase{"picture_untied", {{2, 0}, {9, 2}}, false, 4}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace vlm::model
