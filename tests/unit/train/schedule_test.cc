#include "train/schedule.h"

#include <gtest/gtest.h>

#include "toy_model.h"
#include "train/selection.h"

namespace vlm::train {
namespace {

constexpr ToyOptions kWide{.vocabulary = 1100, .hidden = 256, .blocks = 2};

std::string Planned(const std::vector<std::string>& trainable, bool images, const PlanOptions& options = {}) {
  const model::Graph graph = ToyGraph(kWide);
  const std::vector<BucketSpec> buckets = PlanBuckets(graph, SelectTrainable(graph, trainable).value(), 2);
  return Plan(graph, buckets, images, options).ToString(graph, buckets);
}

TEST(ScheduleTest, TextOnlyStepLeavesThePictureBranchOut) {
  EXPECT_EQ(Planned({}, false), R"(acquire  llm.embed
acquire  llm.blocks.0
wait     llm.embed
forward  llm.embed, saves graph
forward  merge, saves graph
free     embeddings
acquire  llm.blocks.1
wait     llm.blocks.0
forward  llm.blocks.0, saves graph
wait     llm.blocks.1
forward  llm.blocks.1, saves graph
free     llm.hidden.1
forward  llm.head, saves graph
free     llm.hidden.0
free     llm.hidden.2
backward llm.head
backward llm.blocks.1
reduce   llm.blocks.1
release  llm.blocks.1
backward llm.blocks.0
reduce   llm.blocks.0
release  llm.blocks.0
backward merge
backward llm.embed
reduce   llm.embed
release  llm.embed
)");
}

TEST(ScheduleTest, PictureStepRunsTheBranchAndNeverWhatNoResultNeeds) {
  EXPECT_EQ(Planned({}, true, {.prefetch = 0}), R"(acquire  vision.embed+1
wait     vision.embed+1
forward  vision.embed, saves graph
forward  connector, saves graph
free     image_hidden
acquire  llm.embed
wait     llm.embed
forward  llm.embed, saves graph
forward  merge, saves graph
free     image_features
free     embeddings
acquire  llm.blocks.0
wait     llm.blocks.0
forward  llm.blocks.0, saves graph
acquire  llm.blocks.1
wait     llm.blocks.1
forward  llm.blocks.1, saves graph
free     llm.hidden.1
forward  llm.head, saves graph
free     llm.hidden.0
free     llm.hidden.2
backward llm.head
backward llm.blocks.1
reduce   llm.blocks.1
release  llm.blocks.1
backward llm.blocks.0
reduce   llm.blocks.0
release  llm.blocks.0
backward merge
backward llm.embed
reduce   llm.embed
release  llm.embed
backward connector
backward vision.embed
reduce   vision.embed+1
release  vision.embed+1
)");
}

TEST(ScheduleTest, AlignmentPassesGradientsThroughTheFrozenTextModelOnly) {
  const std::string text = Planned({"connector"}, true, {.prefetch = 0});
  EXPECT_EQ(text, R"(acquire  vision.embed (frozen)
wait     vision.embed (frozen)
forward  vision.embed, saves nothing
release  vision.embed (frozen)
acquire  connector
wait     connector
forward  connector, saves graph
free     image_hidden
acquire  llm.embed (frozen)
wait     llm.embed (frozen)
forward  llm.embed, saves nothing
forward  merge, saves graph
free     image_features
free     embeddings
acquire  llm.blocks.0 (frozen)
wait     llm.blocks.0 (frozen)
forward  llm.blocks.0, saves graph
acquire  llm.blocks.1 (frozen)
wait     llm.blocks.1 (frozen)
forward  llm.blocks.1, saves graph
free     llm.hidden.1
forward  llm.head, saves graph
free     llm.hidden.0
free     llm.hidden.2
backward llm.head
release  llm.embed (frozen)
backward llm.blocks.1
release  llm.blocks.1 (frozen)
backward llm.blocks.0
release  llm.blocks.0 (frozen)
backward merge
backward connector
reduce   connector
release  connector
)");
}

TEST(ScheduleTest, NothingRunsBackwardBelowTheLowestTrainableBlock) {
  const std::string text = Planned({"llm.blocks[-1:]"}, false);
  EXPECT_NE(text.find("forward  llm.blocks.0, saves nothing"), std::string::npos);
  EXPECT_NE(text.find("backward llm.blocks.1\nreduce   llm.blocks.1"), std::string::npos);
  EXPECT_EQ(text.find("backward llm.blocks.0"), std::string::npos);
  EXPECT_EQ(text.find("backward merge"), std::string::npos);
}

// The tied embedding is gathered for the embedding and again for the head, where it stays for the head's backward; a
// block that begins backward where forward ended would stay too.
TEST(ScheduleTest, ShardedParametersAreGatheredForEachUseOneAhead) {
  EXPECT_EQ(Planned({}, false, {.release_after_use = true}), R"(acquire  llm.embed
acquire  llm.blocks.0
wait     llm.embed
forward  llm.embed, saves graph
release  llm.embed
forward  merge, saves graph
free     embeddings
acquire  llm.blocks.1
wait     llm.blocks.0
forward  llm.blocks.0, saves graph
release  llm.blocks.0
acquire  llm.embed
wait     llm.blocks.1
forward  llm.blocks.1, saves graph
release  llm.blocks.1
free     llm.hidden.1
acquire  llm.blocks.1
wait     llm.embed
forward  llm.head, saves graph
free     llm.hidden.0
free     llm.hidden.2
backward llm.head
release  llm.embed
acquire  llm.blocks.0
wait     llm.blocks.1
backward llm.blocks.1
reduce   llm.blocks.1
release  llm.blocks.1
acquire  llm.embed
wait     llm.blocks.0
backward llm.blocks.0
reduce   llm.blocks.0
release  llm.blocks.0
backward merge
wait     llm.embed
backward llm.embed
reduce   llm.embed
release  llm.embed
)");
}

TEST(ScheduleTest, RecomputeSavesInputs) {
  const std::string text = Planned({}, false, {.recompute = true});
  EXPECT_EQ(text.find("saves graph"), std::string::npos);
  EXPECT_NE(text.find("forward  llm.blocks.0, saves inputs"), std::string::npos);
}

TEST(ScheduleTest, HashTellsDifferentSchedulesApart) {
  const model::Graph graph = ToyGraph(kWide);
  const std::vector<BucketSpec> buckets = PlanBuckets(graph, std::vector<bool>(graph.params.size(), true), 2);
  const Schedule base = Plan(graph, buckets, true, {});
  EXPECT_EQ(base.Hash(), Plan(graph, buckets, true, {}).Hash());
  EXPECT_EQ(base.Hash().size(), 16u);
  EXPECT_NE(base.Hash(), Plan(graph, buckets, false, {}).Hash());
  EXPECT_NE(base.Hash(), Plan(graph, buckets, true, {.recompute = true}).Hash());
  EXPECT_NE(base.Hash(), Plan(graph, buckets, true, {.prefetch = 2}).Hash());
  EXPECT_NE(base.Hash(), Plan(graph, buckets, true, {.release_after_use = true}).Hash());
}

}  // namespace
}  // namespace vlm::train
