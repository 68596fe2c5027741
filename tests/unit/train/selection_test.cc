#include "train/selection.h"

#include <gtest/gtest.h>

#include <algorithm>
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
  EXPECT_EQ(Selected("llm.blocks[-5]"), Selected("llm.blocks[0]"));
  EXPECT_EQ(Selected("llm.blocks[-9:]").size(), 20u);
}

TEST(SelectionTest, ParameterNamesAndWildcards) {
  EXPECT_EQ(Selected("language_model.layers.0.up").size(), 2u);
  EXPECT_EQ(Selected("*.norm.bias").size(), 5u);
  EXPECT_EQ(Selected("*embed*weight").size(), 2u);
}

TEST(SelectionTest, AQuestionMarkStandsForOneCharacter) {
  EXPECT_EQ(Selected("*.layers.?.norm.bias").size(), 5u);
  EXPECT_EQ(Selected("language_model.layers.?.u?.weight").size(), 5u);
}

TEST(SelectionTest, AGlobMatchesWholeParameterNamesAlone) {
  const model::Graph graph = ToyGraph({.blocks = 5});
  const auto count = [&](const std::string& glob) {
    const std::vector<bool> selected = SelectByGlob(graph, glob).value();
    return std::count(selected.begin(), selected.end(), true);
  };
  EXPECT_EQ(count("language_model.layers.0.up.weight"), 1);
  EXPECT_EQ(count("language_model.layers.?.up.*"), 10);
  EXPECT_EQ(count("*"), static_cast<int64_t>(graph.params.size()));
  EXPECT_EQ(count("*.??.weight"), 5);
  // What SelectParameters takes beyond that: nodes, ranges of them, and names up to a dot.
  for (const char* pattern : {"llm", "connector", "llm.blocks[-1:]", "language_model.layers.0.up", "?", "up.weight"}) {
    const absl::Status status = SelectByGlob(graph, pattern).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_NE(status.message().find("vision_tower.embed.weight"), absl::string_view::npos) << status;
  }
}

TEST(SelectionTest, TiedParameterIsNamedByEitherNode) {
  EXPECT_EQ(Selected("llm.head"), std::set<std::string>{"language_model.embed.weight"});
  EXPECT_EQ(Selected("llm.embed"), Selected("llm.head"));
}

TEST(SelectionTest, PatternThatNamesNothingIsAnErrorThatListsNodes) {
  const model::Graph graph = ToyGraph();
  for (const char* pattern : {"conector", "llm.blocks[7:]", "llm.block", "*.weigth", "llm.blocks[3:1]", "llm.blocks[3]",
                              "llm.blocks[-4]", "llm.blocks[-9]"}) {
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
