// Equal bits: for one and two threads, and for documents whose neighbours change.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "model/llava.h"
#include "model/ops/token_loss.h"
#include "tests/unit/model/graph_runner.h"

namespace vlm::model {
namespace {

using testing::Layout;
using testing::ParameterSet;
using testing::PassResult;

class ThreadsTest : public ::testing::Test {
 protected:
  ~ThreadsTest() override { at::set_num_threads(1); }
};

// Large enough that ATen splits its loops and MKL its products.
LlavaConfig WideLlava() {
  LlavaConfig config = testing::SmallLlava();
  config.text.vocab_size = 1003;
  config.text.hidden_size = 256, config.text.intermediate_size = 704, config.text.head_dim = 0;
  config.text.num_attention_heads = 8, config.text.num_key_value_heads = 2;
  config.vision.hidden_size = 192, config.vision.intermediate_size = 768, config.vision.num_attention_heads = 3;
  config.vision.image_size = 32, config.vision.patch_size = 4;
  return config;
}

TEST_F(ThreadsTest, OneAndTwoThreadsGiveTheSameBits) {
  const LlavaConfig config = WideLlava();
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok()) << graph.status();
  const ParameterSet parameters = testing::RandomParameters(*graph, 6, at::kFloat, Layout::kFlat);
  const MicroBatch batch = testing::RandomBatch(config, {{150, 1}, {97, 0}, {150, 1}, {150, 0}, {230, 3}, {11, 0}}, 5);
  for (const bool known : {false, true}) {
    at::set_num_threads(1);
    const PassResult one = testing::RunPass(*graph, parameters, batch, {.known_coefficients = known});
    at::set_num_threads(2);
    ASSERT_EQ(at::get_num_threads(), 2);
    const PassResult two = testing::RunPass(*graph, parameters, batch, {.known_coefficients = known});
    EXPECT_EQ(one.loss, two.loss);
    for (size_t i = 0; i < one.gradients.size(); ++i) {
      EXPECT_TRUE(at::equal(one.gradients[i], two.gradients[i])) << graph->params[i].name;
    }
    for (size_t i = 0; i < one.values.size(); ++i) {
      if (one.values[i].defined()) EXPECT_TRUE(at::equal(one.values[i], two.values[i])) << graph->values[i].name;
    }
  }
}

TEST(LeakTest, ADocumentDoesNotSeeItsNeighbours) {
  const LlavaConfig config = testing::SmallLlava();
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok());
  const ParameterSet parameters = testing::RandomParameters(*graph, 6, at::kFloat, Layout::kFlat);
  MicroBatch batch = testing::RandomBatch(config, {{14, 1}, {14, 1}, {9, 0}, {8, 0}}, 5);
  const ValueId hidden = graph->FindValue("llm.hidden.2");
  const PassResult before = testing::RunPass(*graph, parameters, batch, {});
  batch.ids_N = batch.ids_N.clone();
  batch.ids_N.narrow(0, 30, 7).copy_((batch.ids_N.narrow(0, 30, 7) + 11) % 90 + 6);
  batch.pixels = batch.pixels.clone();
  batch.pixels[1].mul_(-1);
  const PassResult after = testing::RunPass(*graph, parameters, batch, {});
  const auto rows = [&](const PassResult& pass, int64_t begin, int64_t count) {
    return pass.values[hidden].narrow(0, begin, count);
  };
  EXPECT_TRUE(at::equal(rows(before, 0, 14), rows(after, 0, 14)));
  EXPECT_FALSE(at::equal(rows(before, 14, 14), rows(after, 14, 14)));
  EXPECT_FALSE(at::equal(rows(before, 28, 9), rows(after, 28, 9)));
  EXPECT_TRUE(at::equal(rows(before, 37, 8), rows(after, 37, 8)));
}

TEST(LeakTest, AModelIsCausal) {
  const LlavaConfig config = testing::SmallLlava();
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok());
  const ParameterSet parameters = testing::RandomParameters(*graph, 6, at::kFloat, Layout::kFlat);
  MicroBatch batch = testing::RandomBatch(config, {{20, 0}}, 5);
  const ValueId hidden = graph->FindValue("llm.hidden.2");
  const at::Tensor before = testing::RunPass(*graph, parameters, batch, {}).values[hidden];
  batch.ids_N = batch.ids_N.clone();
  batch.ids_N[12] = 60 + (batch.ids_N[12].item<int64_t>() == 60);
  const at::Tensor after = testing::RunPass(*graph, parameters, batch, {}).values[hidden];
  EXPECT_TRUE(at::equal(before.narrow(0, 0, 12), after.narrow(0, 0, 12)));
  EXPECT_FALSE(at::equal(before.narrow(0, 12, 8), after.narrow(0, 12, 8)));
}

}  // namespace
}  // namespace vlm::model
