#include "model/graph.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/llava.h"
#include "tests/unit/model/graph_runner.h"

namespace vlm::model {
namespace {

using ::testing::HasSubstr;

class FixedUnit : public Unit {
 public:
  explicit FixedUnit(Declaration declaration) : declaration_(std::move(declaration)) {}
  Declaration Declare() const override { return declaration_; }
  Values Forward(const UnitContext&, const Params&, const Values& in) const override { return in; }

 private:
  Declaration declaration_;
};

std::unique_ptr<Unit> Make(Declaration declaration) { return std::make_unique<FixedUnit>(std::move(declaration)); }

TEST(GraphTest, RefusesWhatDoesNotFitAndStaysAsItWas) {
  Graph graph;
  ASSERT_TRUE(graph.Add("a", Make({{{"w", {2, 3}}}, {}, {{"x", {Axis::kTokens}}}})).ok());
  const std::string before = graph.ToString();
  const auto message = [&](const char* name, Declaration declaration) {
    return std::string(graph.Add(name, Make(std::move(declaration))).message());
  };
  EXPECT_THAT(message("a", {}), HasSubstr("a node of this name exists"));
  EXPECT_THAT(message("b", {{}, {"nothing"}, {}}), HasSubstr("no earlier node makes its input \"nothing\"; node b"));
  EXPECT_THAT(message("b", {{}, {}, {{"x", {}}}}), HasSubstr("value \"x\" is made twice"));
  EXPECT_THAT(message("b", {{}, {}, {{"y", {}}, {"y", {}}}}), HasSubstr("value \"y\" is made twice"));
  EXPECT_THAT(message("b", {{{"w", {3, 2}}}, {}, {}}), HasSubstr("[3, 2] here, [2, 3] before"));
  EXPECT_THAT(message("b", {{{"v", {1}}, {"v", {1}}}, {}, {}}), HasSubstr("declares parameter \"v\" twice"));
  EXPECT_EQ(graph.ToString(), before);
}

TEST(GraphTest, ASharedNameIsOneParameter) {
  Graph graph;
  ASSERT_TRUE(graph.Add("a", Make({{{"w", {2}}}, {}, {{"x", {Axis::kTokens}}}})).ok());
  ASSERT_TRUE(graph.Add("b", Make({{{"w", {2}}, {"v", {1}}}, {"x"}, {{"y", {Axis::kTokens}}}})).ok());
  EXPECT_EQ(graph.params.size(), 2u);
  EXPECT_EQ(graph.nodes[1].params, (std::vector<ParamId>{0, 1}));
  EXPECT_EQ(graph.FindParam("v"), 1);
  EXPECT_EQ(graph.FindParam("u"), kNone);
}

TEST(GraphTest, LlavaHasTheNodesThatJobFilesName) {
  LlavaConfig config = testing::SmallLlava();
  config.text.num_hidden_layers = config.vision.num_hidden_layers = 1;
  const auto graph = BuildLlava(config);
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(
      graph->ToString(),
      "llm.embed: () -> (embeddings[tokens, 48]), 1 parameters, 4656 elements\n"
      "vision.embed: () -> (vision.hidden.0[vision_tokens, 24]), 3 parameters, 1392 elements, if images\n"
      "vision.blocks.0: (vision.hidden.0) -> (vision.hidden.1[vision_tokens, 24]), 16 parameters, 4480 elements, "
      "if images\n"
      "vision.post: (vision.hidden.1) -> (vision.last_hidden_state[vision_tokens, 24]), 2 parameters, 48 elements, "
      "if images\n"
      "connector: (vision.hidden.1) -> (image_features[vision_tokens, 48]), 4 parameters, 3552 elements, if images\n"
      "merge: (embeddings, image_features) -> (llm.hidden.0[tokens, 48]), 0 parameters, 0 elements\n"
      "llm.rotary: () -> (rotary[2, tokens, 5]), 0 parameters, 0 elements\n"
      "llm.blocks.0: (llm.hidden.0, rotary) -> (llm.hidden.1[tokens, 48]), 12 parameters, 16476 elements\n"
      "llm.head: (llm.hidden.1) -> (logp_K[targets], lse_K[targets], mean_logit_K[targets], "
      "next_logits[documents, 97]), 2 parameters, 4704 elements\n"
      "results: logp_K, lse_K, mean_logit_K\n");
}

TEST(GraphTest, GroupsAndFilesFollowTheName) {
  EXPECT_EQ(ParameterGroup("language_model.model.norm.weight"), "llm");
  EXPECT_EQ(ParameterGroup("model.norm.weight"), "llm");
  EXPECT_EQ(ParameterGroup("vision_tower.post_layernorm.bias"), "vision");
  EXPECT_EQ(ParameterGroup("multi_modal_projector.linear_1.bias"), "connector");
  EXPECT_EQ(FileOf("multi_modal_projector.linear_1.bias"), WeightsFile::kVision);
  EXPECT_EQ(FileOf("lm_head.weight"), WeightsFile::kLlm);
  // Every parameter of a text-only model exists in a LLaVA under the mapped name, with the same shape.
  const LlavaConfig config = testing::SmallLlava();
  const auto text = BuildQwen2(config.text), llava = BuildLlava(config);
  ASSERT_TRUE(text.ok() && llava.ok());
  for (const ParamSpec& spec : text->params) {
    const ParamId id = llava->FindParam(TextNameInLlava(spec.name));
    ASSERT_NE(id, kNone) << spec.name;
    EXPECT_EQ(llava->params[id].shape, spec.shape);
  }
}

TEST(MicroBatchTest, InconsistentBatchesAreNamed) {
  const LlavaConfig config = testing::SmallLlava();
  const MicroBatch good = testing::RandomBatch(config, {{12, 1}, {5, 0}}, 1);
  const BatchLimits limits = {config.text.vocab_size, config.ImageTokens(), config.vision.image_size};
  const auto message = [&](auto change) {
    MicroBatch batch = good;
    change(&batch);
    return std::string(ValidateMicroBatch(batch, limits).message());
  };
  EXPECT_EQ(message([](MicroBatch*) {}), "");
  EXPECT_THAT(message([](MicroBatch* b) { b->document_starts[1] = 0; }), HasSubstr("field document_starts"));
  EXPECT_THAT(message([](MicroBatch* b) { b->ids_N = b->ids_N + 96; }), HasSubstr("field ids_N"));
  EXPECT_THAT(message([](MicroBatch* b) { b->target_index_K = b->target_index_K + 9; }),
              HasSubstr("field target_index_K"));
  EXPECT_THAT(message([](MicroBatch* b) { b->counts.images = 2; }), HasSubstr("expected 9 for each of 2 images"));
  EXPECT_THAT(message([](MicroBatch* b) { b->pixels = at::Tensor(); }), HasSubstr("field pixels"));
  EXPECT_THAT(message([](MicroBatch* b) { b->pixels = b->pixels.narrow(3, 1, b->pixels.size(3) - 1); }),
              HasSubstr("field pixels"));
  EXPECT_THAT(message([](MicroBatch* b) { b->pixels = b->pixels.narrow(1, 0, 1); }), HasSubstr("field pixels"));
  EXPECT_THAT(message([](MicroBatch* b) { b->pixels = b->pixels.to(at::kDouble); }), HasSubstr("field pixels"));
  EXPECT_THAT(message([](MicroBatch* b) {
                b->image_row_V = b->image_row_V.clone();
                b->image_row_V[0] = b->image_row_V[5];
              }),
              HasSubstr("distinct rows; field image_row_V"));
  EXPECT_THAT(message([](MicroBatch* b) { b->target_weight_K = b->target_weight_K.narrow(0, 0, 2); }),
              HasSubstr("field target_weight_K"));
  EXPECT_THAT(message([](MicroBatch* b) { b->target_weight_K = b->target_weight_K / 0.0; }),
              HasSubstr("field target_weight_K"));
  EXPECT_THAT(message([](MicroBatch* b) { b->target_weight_K = b->target_weight_K.to(at::kDouble); }),
              HasSubstr("field target_weight_K"));
}

}  // namespace
}  // namespace vlm::model
