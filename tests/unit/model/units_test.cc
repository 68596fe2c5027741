// Conformance of every unit: Record, written by hand or not, equals autograd over Forward.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "model/llava.h"
#include "tests/unit/model/graph_runner.h"

namespace vlm::model {
namespace {

using testing::Layout;
using testing::ParameterSet;
using testing::PassOptions;
using testing::PassResult;

constexpr double kFp64Tolerance = 1e-12;

double Distance(const at::Tensor& a, const at::Tensor& b) {
  const double scale = b.to(at::kDouble).norm().item<double>();
  return (a.to(at::kDouble) - b.to(at::kDouble)).norm().item<double>() / std::max(scale, 1e-30);
}

at::Tensor RandomLike(const at::Tensor& x, int64_t salt) {
  // Fixed numbers without a generator: fractional parts of a quadratic sequence.
  const at::Tensor i = at::arange(1, x.numel() + 1, at::kDouble);
  const at::Tensor v = i * i * 0.6180339887498949 + i * 0.41421356 * static_cast<double>(salt);
  return ((v - v.floor()) * 2 - 1).view(x.sizes()).to(x.scalar_type());
}

struct Recorded {
  Values outputs, input_grads;
  std::vector<at::Tensor> slots;
};

// One node forward and backward through `record` (the unit's own, or the default).
template <typename Record>
Recorded Play(const Node& node, const Params& params, const std::vector<bool>& trainable,
              const std::vector<bool>& needs, const Values& in, const Record& record) {
  Recorded result;
  std::unique_ptr<Tape> tape = record();
  Values grads;
  for (size_t i = 0; i < node.out.size(); ++i) {
    const at::Tensor& out = tape->outputs()[i];
    result.outputs.push_back(out);
    grads.push_back(out.defined() && out.is_floating_point() ? RandomLike(out, static_cast<int64_t>(i) + 1)
                                                             : at::Tensor());
  }
  GradSink sink;
  for (size_t i = 0; i < params.size(); ++i) {
    sink.slots.push_back(trainable[i] ? at::ones_like(params[i]) : at::Tensor());  // ones: slots are added to
  }
  result.input_grads = tape->Backward(grads, &sink);
  result.slots = sink.slots;
  return result;
}

void ExpectSame(const Recorded& a, const Recorded& b, const std::string& what) {
  const auto compare = [&](const std::vector<at::Tensor>& x, const std::vector<at::Tensor>& y, const char* kind) {
    ASSERT_EQ(x.size(), y.size()) << what << " " << kind;
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(x[i].defined(), y[i].defined()) << what << " " << kind << " " << i;
      if (!x[i].defined()) continue;
      ASSERT_EQ(x[i].sizes(), y[i].sizes()) << what << " " << kind << " " << i;
      EXPECT_LT(Distance(x[i], y[i]), kFp64Tolerance) << what << " " << kind << " " << i;
    }
  };
  compare(a.outputs, b.outputs, "output");
  compare(a.input_grads, b.input_grads, "gradient of input");
  compare(a.slots, b.slots, "gradient of parameter");
}

struct ConformanceCase {
  std::string name;
  Layout layout = Layout::kFlat;
  Save save = Save::kGraph;
  int64_t key_heads = 1;
  int64_t trained = 0;  // 0: all, 1: none, 2: every second parameter
  bool tied = true;
};

class ConformanceTest : public ::testing::TestWithParam<ConformanceCase> {};

TEST_P(ConformanceTest, RecordIsForwardAndAutograd) {
  const ConformanceCase& c = GetParam();
  LlavaConfig config = testing::SmallLlava();
  config.text.num_key_value_heads = c.key_heads;
  config.text.tie_word_embeddings = c.tied;
  config.text.hidden_size = 64;  // so that gate and up are adjacent in the flat layout
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok()) << graph.status();
  const ParameterSet parameters = testing::RandomParameters(*graph, 3, at::kDouble, c.layout);
  const MicroBatch batch = testing::RandomBatch(config, {{12, 1}, {5, 0}, {12, 1}, {12, 0}, {12, 0}, {1, 0}}, 4);
  const PassResult pass = testing::RunPass(*graph, parameters, batch, {});
  for (size_t n = 0; n < graph->nodes.size(); ++n) {
    const Node& node = graph->nodes[n];
    const Params params = parameters.Of(*graph, static_cast<NodeId>(n));
    Values in;
    std::vector<bool> needs, trainable;
    for (const ValueId id : node.in) {
      in.push_back(pass.values[id]);
      needs.push_back(graph->values[id].differentiable);
    }
    for (size_t i = 0; i < params.size(); ++i) trainable.push_back(c.trained == 0 || (c.trained == 2 && i % 2 == 0));
    UnitContext context;
    context.batch = &batch;
    const Unit& unit = *node.unit;
    const Recorded own = Play(node, params, trainable, needs, in,
                              [&] { return unit.Record(context, params, trainable, in, needs, c.save); });
    const Recorded reference = Play(node, params, trainable, needs, in, [&] {
      return unit.Unit::Record(context, params, trainable, in, needs, Save::kGraph);
    });
    // An input-less node's tape may answer no entries.
    ExpectSame(own, reference, node.name);
  }
}

INSTANTIATE_TEST_SUITE_P(Units, ConformanceTest,
                         ::testing::Values(ConformanceCase{"flat"}, ConformanceCase{"apart", Layout::kApart},
                                           ConformanceCase{"recompute", Layout::kFlat, Save::kInputs},
                                           ConformanceCase{"two_key_heads", Layout::kFlat, Save::kGraph, 2},
                                           ConformanceCase{"four_key_heads", Layout::kFlat, Save::kGraph, 4},
                                           ConformanceCase{"frozen", Layout::kFlat, Save::kGraph, 1, 1},
                                           ConformanceCase{"every_second", Layout::kFlat, Save::kGraph, 1, 2},
                                           ConformanceCase{"untied", Layout::kApart, Save::kGraph, 2, 0, false}),
                         [](const auto& info) { return info.param.name; });

// The same model with adjacent and with separate weights, fp32 kernels against fp64, known coefficients against
// recomputation: one function.
TEST(PassTest, EveryPathGivesTheSameGradients) {
  LlavaConfig config = testing::SmallLlava();
  config.text.hidden_size = 64;
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok()) << graph.status();
  const MicroBatch batch = testing::RandomBatch(config, {{14, 1}, {7, 0}, {14, 1}}, 5);
  const auto pass = [&](at::ScalarType type, Layout layout, const PassOptions& options) {
    return testing::RunPass(*graph, testing::RandomParameters(*graph, 6, type, layout), batch, options);
  };
  const PassResult truth = pass(at::kDouble, Layout::kApart, {.smoothing = 0.1});
  const auto expect_close = [&](const PassResult& got, double tolerance, const char* what) {
    EXPECT_NEAR(got.loss, truth.loss, tolerance * std::abs(truth.loss)) << what;
    double total = 0;
    for (const at::Tensor& g : truth.gradients) total += g.square().sum().item<double>();
    for (size_t i = 0; i < graph->params.size(); ++i) {
      const double error = (got.gradients[i].to(at::kDouble) - truth.gradients[i]).norm().item<double>();
      EXPECT_LE(error, tolerance * truth.gradients[i].norm().item<double>() + 1e-3 * tolerance * std::sqrt(total))
          << what << " " << graph->params[i].name;
    }
  };
  expect_close(pass(at::kDouble, Layout::kFlat, {.known_coefficients = true, .smoothing = 0.1}), 1e-11, "known");
  expect_close(pass(at::kDouble, Layout::kFlat, {.save = Save::kInputs, .smoothing = 0.1}), 1e-11, "recomputed");
  expect_close(pass(at::kFloat, Layout::kFlat, {.smoothing = 0.1}), 1e-4, "fp32");
  expect_close(pass(at::kFloat, Layout::kFlat, {.known_coefficients = true, .smoothing = 0.1}), 1e-4, "fp32 known");
  expect_close(pass(at::kFloat, Layout::kApart, {.smoothing = 0.1, .slots = Layout::kApart}), 1e-4, "fp32 apart");
  expect_close(pass(at::kBFloat16, Layout::kFlat, {.smoothing = 0.1}), 0.08, "bf16");
}

TEST(PassTest, RecomputationGivesTheSameBits) {
  const LlavaConfig config = testing::SmallLlava();
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok());
  const ParameterSet parameters = testing::RandomParameters(*graph, 6, at::kFloat, Layout::kFlat);
  const MicroBatch batch = testing::RandomBatch(config, {{14, 1}, {7, 0}}, 5);
  const PassResult a = testing::RunPass(*graph, parameters, batch, {.known_coefficients = true});
  const PassResult b = testing::RunPass(*graph, parameters, batch, {.save = Save::kInputs, .known_coefficients = true});
  EXPECT_EQ(a.loss, b.loss);
  for (size_t i = 0; i < a.gradients.size(); ++i) EXPECT_TRUE(at::equal(a.gradients[i], b.gradients[i]));
}

// Freezing removes gradients and changes none of the others.
TEST(PassTest, FrozenGroupsHaveNoGradientAndOthersKeepTheirBits) {
  const LlavaConfig config = testing::SmallLlava();
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok());
  const ParameterSet parameters = testing::RandomParameters(*graph, 6, at::kFloat, Layout::kFlat);
  const MicroBatch batch = testing::RandomBatch(config, {{14, 1}, {7, 0}}, 5);
  const PassResult all = testing::RunPass(*graph, parameters, batch, {});
  const PassResult some = testing::RunPass(*graph, parameters, batch, {.frozen = {"llm", "vision"}});
  for (size_t i = 0; i < graph->params.size(); ++i) {
    if (ParameterGroup(graph->params[i].name) != "connector") {
      EXPECT_FALSE(some.gradients[i].defined());
    } else {
      EXPECT_TRUE(at::equal(all.gradients[i], some.gradients[i])) << graph->params[i].name;
      EXPECT_GT(some.gradients[i].norm().item<float>(), 0);
    }
  }
}

TEST(PassTest, WithoutPicturesTheVisionPartHasNoGradient) {
  const LlavaConfig config = testing::SmallLlava();
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok());
  const PassResult pass = testing::RunPass(*graph, testing::RandomParameters(*graph, 6, at::kFloat, Layout::kFlat),
                                           testing::RandomBatch(config, {{14, 0}, {7, 0}}, 5), {});
  for (size_t i = 0; i < graph->params.size(); ++i) {
    const float norm = pass.gradients[i].norm().item<float>();
    if (ParameterGroup(graph->params[i].name) == "llm") {
      EXPECT_GT(norm, 0) << graph->params[i].name;
    } else {
      EXPECT_EQ(norm, 0) << graph->params[i].name;
    }
  }
}

// A bf16 sum of 1s ends at 256: the pictures after it would not count.
TEST(VisionTest, Bf16PositionGradientsOfManyPicturesAreNotLost) {
  constexpr int64_t kPictures = 400;
  const LlavaConfig config = testing::SmallLlava();
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto node =
      std::find_if(graph->nodes.begin(), graph->nodes.end(), [](const Node& n) { return n.name == "vision.embed"; });
  Params params;
  for (const ParamId param : node->params) params.push_back(at::zeros(graph->params[param].shape, at::kBFloat16));
  const int64_t side = config.vision.image_size;
  MicroBatch batch;
  batch.pixels = at::zeros({kPictures, 3, side, side}, at::kFloat);
  UnitContext context;
  context.batch = &batch;
  const std::unique_ptr<Tape> tape =
      node->unit->Record(context, params, std::vector<bool>(params.size(), true), {}, {}, Save::kGraph);
  GradSink sink;
  for (const at::Tensor& param : params) sink.slots.push_back(at::zeros_like(param));
  tape->Backward({at::ones_like(tape->outputs()[0])}, &sink);
  const at::Tensor& position = sink.slots[2];
  ASSERT_EQ(position.size(0), config.vision.Patches());
  EXPECT_TRUE(at::equal(position, at::full_like(position, kPictures))) << position[0][0];
}

}  // namespace
}  // namespace vlm::model
