#include "model/generate.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/layer_cache.h"
#include "model/llava.h"
#include "tests/unit/model/graph_runner.h"

namespace vlm::model {
namespace {

using testing::Layout;
using testing::ParameterSet;

class GenerateTest : public ::testing::Test {
 protected:
  void Build(int64_t key_heads) {
    config_ = testing::SmallLlava();
    config_.text.num_key_value_heads = key_heads;
    auto graph = BuildLlava(config_);
    ASSERT_TRUE(graph.ok()) << graph.status();
    graph_ = std::move(*graph);
    parameters_ = testing::RandomParameters(graph_, 21, at::kFloat, Layout::kFlat);
  }
  NodeParams Views() {
    return [this](NodeId node) { return parameters_.Of(graph_, node); };
  }
  Prompt MakePrompt(int64_t tokens, int64_t images, uint64_t seed) {
    const MicroBatch batch = testing::RandomBatch(config_, {{tokens, images}}, seed);
    Prompt prompt;
    const int64_t* ids = batch.ids_N.const_data_ptr<int64_t>();
    prompt.ids.assign(ids, ids + tokens);
    if (images > 0) {
      const int64_t* rows = batch.image_row_V.const_data_ptr<int64_t>();
      prompt.image_rows.assign(rows, rows + batch.image_row_V.numel());
      prompt.pixels = batch.pixels;
    }
    return prompt;
  }
  // Next-token logits of a whole sequence without any cache.
  at::Tensor Uncached(const Prompt& prompt, const std::vector<int64_t>& more) {
    MicroBatch batch;
    std::vector<int64_t> ids = prompt.ids;
    ids.insert(ids.end(), more.begin(), more.end());
    const int64_t tokens = static_cast<int64_t>(ids.size());
    batch.ids_N = at::tensor(ids, at::kLong);
    batch.positions_N = at::arange(tokens, at::kLong);
    batch.document_starts = {0, tokens};
    batch.counts = {.tokens = tokens, .documents = 1};
    if (prompt.pixels.defined()) {
      batch.pixels = prompt.pixels;
      batch.image_row_V = at::tensor(prompt.image_rows, at::kLong);
      batch.counts.images = prompt.pixels.size(0);
      batch.counts.vision_tokens = batch.image_row_V.size(0);
    }
    const ValueId logits = graph_.FindValue("next_logits");
    return ForwardGraph(graph_, Views(), batch, Phase::kPrefill, {}, {logits})[logits][0];
  }

  LlavaConfig config_;
  Graph graph_;
  ParameterSet parameters_;
};

TEST_F(GenerateTest, CachedBatchEqualsUncachedSteps) {
  for (const int64_t key_heads : {1, 2, 4}) {
    Build(key_heads);
    const std::vector<Prompt> prompts = {MakePrompt(14, 1, 1), MakePrompt(3, 0, 2), MakePrompt(25, 2, 3),
                                         MakePrompt(1, 0, 4)};
    const auto answers = GreedyGenerate(graph_, Views(), prompts, {.max_new_tokens = 8, .batch_prompts = 3});
    ASSERT_TRUE(answers.ok()) << answers.status();
    ASSERT_EQ(answers->size(), prompts.size());
    for (size_t p = 0; p < prompts.size(); ++p) {
      ASSERT_EQ((*answers)[p].size(), 8u);
      std::vector<int64_t> said;
      for (const int64_t token : (*answers)[p]) {
        const at::Tensor logits = Uncached(prompts[p], said);
        // Greedy equality holds where the best two are further apart than rounding.
        const auto top = at::topk(logits, 2);
        const float gap = std::get<0>(top)[0].item<float>() - std::get<0>(top)[1].item<float>();
        ASSERT_GT(gap, 1e-5 * logits.abs().max().item<float>()) << "choose another seed: a tie";
        EXPECT_EQ(std::get<1>(top)[0].item<int64_t>(), token) << "prompt " << p << " after " << said.size();
        said.push_back(token);
      }
    }
  }
}

TEST_F(GenerateTest, CachedLogitsAreWithinRounding) {
  Build(2);
  const Prompt prompt = MakePrompt(14, 1, 1);
  std::vector<std::unique_ptr<LayerCache>> caches;
  std::vector<LayerCache*> pointers;
  for (const Node& node : graph_.nodes) {
    const bool block = node.name.rfind("llm.blocks.", 0) == 0;
    caches.push_back(block ? std::make_unique<LayerCache>(1, 40) : nullptr);
    if (block) caches.back()->SetDocumentRows({0});
    pointers.push_back(caches.back().get());
  }
  const ValueId logits = graph_.FindValue("next_logits");
  MicroBatch batch = testing::RandomBatch(config_, {{14, 1}}, 1);
  ForwardGraph(graph_, Views(), batch, Phase::kPrefill, pointers, {logits});
  std::vector<int64_t> said;
  for (int64_t step = 0; step < 12; ++step) {
    said.push_back(6 + (step * 37) % 90);
    MicroBatch one;
    one.ids_N = at::tensor({said.back()}, at::kLong);
    one.positions_N = at::tensor({14 + step}, at::kLong);
    one.document_starts = {0, 1};
    one.counts = {.tokens = 1, .documents = 1};
    const at::Tensor cached = ForwardGraph(graph_, Views(), one, Phase::kDecode, pointers, {logits})[logits][0];
    const at::Tensor plain = Uncached(prompt, said);
    EXPECT_LE((cached - plain).norm().item<double>(), 1e-5 * plain.norm().item<double>()) << step;
  }
}

TEST_F(GenerateTest, AStopTokenEndsAnAnswerAndOnlyThatAnswer) {
  Build(1);
  const std::vector<Prompt> prompts = {MakePrompt(14, 1, 1), MakePrompt(3, 0, 2)};
  const auto free = GreedyGenerate(graph_, Views(), prompts, {.max_new_tokens = 8});
  ASSERT_TRUE(free.ok());
  std::vector<int64_t> first = (*free)[0];
  // The first token of answer 0 that answer 1 does not use before ending.
  const auto stop = std::find_if(first.begin(), first.end(), [&](int64_t token) {
    return std::count((*free)[1].begin(), (*free)[1].end(), token) == 0;
  });
  ASSERT_NE(stop, first.end());
  const auto stopped = GreedyGenerate(graph_, Views(), prompts, {.max_new_tokens = 8, .stop_ids = {*stop}});
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ((*stopped)[0], std::vector<int64_t>(first.begin(), std::find(first.begin(), first.end(), *stop)));
  EXPECT_EQ((*stopped)[1], (*free)[1]);
}

TEST_F(GenerateTest, TheContextEndsAnAnswerAndOnlyThatAnswer) {
  Build(2);
  const std::vector<Prompt> prompts = {MakePrompt(14, 1, 1), MakePrompt(3, 0, 2), MakePrompt(19, 1, 3)};
  const auto free = GreedyGenerate(graph_, Views(), prompts, {.max_new_tokens = 8});
  int forwards = 0;
  const auto bounded = GreedyGenerate(graph_, Views(), prompts,
                                      {.max_new_tokens = 8, .context_max = 20, .advance = [&forwards] { ++forwards; }});
  ASSERT_TRUE(free.ok() && bounded.ok());
  EXPECT_EQ((*bounded)[0], std::vector<int64_t>((*free)[0].begin(), (*free)[0].begin() + 6));
  EXPECT_EQ((*bounded)[1], (*free)[1]);
  EXPECT_EQ((*bounded)[2], std::vector<int64_t>(1, (*free)[2][0]));
  EXPECT_EQ(forwards, 8);
  const auto none = GreedyGenerate(graph_, Views(), prompts, {.max_new_tokens = 8, .context_max = 19});
  EXPECT_THAT(std::string(none.status().message()), ::testing::HasSubstr("prompt 2, tokens 19 of 19"));
}

TEST_F(GenerateTest, BadPromptsAreNamed) {
  Build(1);
  const auto message = [&](Prompt prompt) {
    return std::string(GreedyGenerate(graph_, Views(), {MakePrompt(3, 0, 2), prompt}, {}).status().message());
  };
  EXPECT_THAT(message({}), ::testing::HasSubstr("empty prompt; prompt 1"));
  Prompt prompt = MakePrompt(14, 1, 1);
  prompt.image_rows[0] = 14;
  EXPECT_THAT(message(prompt), ::testing::HasSubstr("outside the prompt; prompt 1, position 14"));
  prompt.pixels = at::Tensor();
  EXPECT_THAT(message(prompt), ::testing::HasSubstr("must come together; prompt 1"));
}

}  // namespace
}  // namespace vlm::model
