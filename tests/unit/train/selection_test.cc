#include "train/selection.h"

#include <gtest/gtest.h>

#include <set>

#include "toy_model.h"

namespace vlm::train {
namespace {

std::set<std::string> Selected(const std::string& pattern) {
  const model::Graph graph = ToyGraph({.blocks = 5});
  std::set<std::string> names;
  const std::vector<bool> selected = SelectParameters(graph, pattern).value();
  for (size_t i = 0; i < selected.size(); ++i) {
    if (selected[i]) names.insert(graph.params[i].name);
  }
  return names;
}

TEST(SelectionTest, NodePrefixNamesWholeGroups) {
  EXPECT_EQ(Selected("connector"),
            (std::set<std::string>{"multi_modal_projector.linear.weight", "multi_modal_projector.linear.bias"}));
  EXPECT_EQ(Selected("llm").size(), 1u + 5 * 4);
  EXPECT_EQ(Selected("llm.blocks.3").size(), 4u);
  EXPECT_EQ(Selected("vision").size(), 4u);
}

TEST(SelectionTest, BlockRangesAsInPython) {
  EXPECT_EQ(Selected("llm.blocks[-2:]").size(), 8u);
  EXPECT_TRUE(Selected("llm.blocks[-2:]").contains("language_model.layers.3.up.weight"));
  EXPECT_FALSE(Selected("llm.blocks[-2:]").contains("language_model.layers.2.up.weight"));
  EXPECT_EQ(Selected("llm.blocks[:3]").size(), 12u);
  EXPECT_EQ(Selected("llm.blocks[1:3]").size(), 8u);
  EXPECT_EQ(Selected("llm.blocks[4]").size(), 4u);
  EXPECT_EQ(Selected("llm.blocks[-9:]").size(), 20u);
}

TEST(SelectionTest, ParameterNamesAndWildcards) {
  EXPECT_EQ(Selected("language_model.layers.0.up").size(), 2u);
  EXPECT_EQ(Selected("*.norm.bias").size(), 5u);
  EXPECT_EQ(Selected("*embed*weight").size(), 2u);
}

TEST(SelectionTest, TiedParameterIsNamedByEitherNode) {
  EXPECT_EQ(Selected("llm.head"), std::set<std::string>{"language_model.embed.weight"});
  EXPECT_EQ(Selected("llm.embed"), Selected("llm.head"));
}

TEST(SelectionTest, PatternThatNamesNothingIsAnErrorThatListsNodes) {
  const model::Graph graph = ToyGraph();
  for (const char* pattern : {"conector", "llm.blocks[7:]", "llm.block", "*.weigth", "llm.blocks[3:1]"}) {
    const auto result = SelectParameters(graph, pattern);
    ASSERT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_NE(result.status().message().find(pattern), absl::string_view::npos);
    EXPECT_NE(result.status().message().find("llm.embed"), absl::string_view::npos);
  }
}

TEST(SelectionTest, MalformedRangesAreErrors) {
  const model::Graph graph = ToyGraph();
  for (const char* pattern : {"llm.blocks[a:]", "llm.blocks[", "llm.blocks[]", "[1:2]", "llm.blocks[1:2].up"}) {
    EXPECT_EQ(SelectParameters(graph, pattern).status().code(), absl::StatusCode::kInvalidArgument) << pattern;
  }
}

TEST(SelectionTest, NoPatternTrainsEverything) {
  const model::Graph graph = ToyGraph();
  EXPECT_EQ(SelectTrainable(graph, {}).value(), std::vector<bool>(graph.params.size(), true));
}

}  // namespace
}  // namespace vlm::train
