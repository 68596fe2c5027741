#include "train/buckets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "toy_model.h"

namespace vlm::train {
namespace {

std::vector<bool> All(const model::Graph& graph) { return std::vector<bool>(graph.params.size(), true); }

const BucketSpec& BucketNamed(const std::vector<BucketSpec>& buckets, const std::string& name) {
  const auto found = std::find_if(buckets.begin(), buckets.end(), [&](const auto& b) { return b.name == name; });
  EXPECT_NE(found, buckets.end()) << name;
  return *found;
}

TEST(PlanBucketsTest, EveryParameterLiesInExactlyOneBucket) {
  const model::Graph graph = ToyGraph({.hidden = 184});
  for (int world : {1, 2, 3, 8}) {
    std::map<model::ParamId, int> seen;
    for (const BucketSpec& bucket : PlanBuckets(graph, All(graph), world)) {
      int64_t end = 0;
      for (const ParamRange& range : bucket.ranges) {
        ++seen[range.param];
        EXPECT_EQ(range.offset % kRangeAlignment, 0);
        EXPECT_GE(range.offset, end);
        end = range.offset + range.end - range.begin;
        EXPECT_EQ(range.end, NumElements(graph.params[range.param].shape));
      }
      EXPECT_EQ(bucket.used, end);
      EXPECT_EQ(bucket.numel % (kBlockElements * world), 0);
      EXPECT_LT(bucket.numel - bucket.used, kBlockElements * world);
    }
    EXPECT_EQ(seen.size(), graph.params.size());
    for (const auto& [param, count] : seen) EXPECT_EQ(count, 1) << graph.params[param].name;
  }
}

TEST(PlanBucketsTest, OffsetsDoNotDependOnTheNumberOfRanks) {
  const model::Graph graph = ToyGraph({.hidden = 184});
  const std::vector<BucketSpec> one = PlanBuckets(graph, All(graph), 1);
  for (int world : {2, 3, 7}) {
    const std::vector<BucketSpec> many = PlanBuckets(graph, All(graph), world);
    ASSERT_EQ(one.size(), many.size());
    for (size_t i = 0; i < one.size(); ++i) {
      EXPECT_EQ(one[i].name, many[i].name);
      EXPECT_EQ(one[i].ranges, many[i].ranges);
      EXPECT_EQ(one[i].users, many[i].users);
    }
  }
}

TEST(PlanBucketsTest, TiedParameterIsStoredOnceAndUsedByBothNodes) {
  const model::Graph graph = ToyGraph({.vocabulary = 1100, .hidden = 256});
  const std::vector<BucketSpec> buckets = PlanBuckets(graph, All(graph), 2);
  const BucketSpec& embed = BucketNamed(buckets, "llm.embed");
  ASSERT_EQ(embed.ranges.size(), 1u);
  EXPECT_EQ(embed.users.size(), 2u);
  EXPECT_EQ(graph.nodes[embed.users.front()].name, "llm.embed");
  EXPECT_EQ(graph.nodes[embed.users.back()].name, "llm.head");
}

TEST(PlanBucketsTest, SmallNodesAreCoalescedButNotAcrossPresenceOrReach) {
  const model::Graph graph = ToyGraph();
  const std::vector<BucketSpec> buckets = PlanBuckets(graph, All(graph), 1);
  ASSERT_EQ(buckets.size(), 3u);
  EXPECT_EQ(BucketNamed(buckets, "llm.embed+3").ranges.size(), 1u + 3 * 4);
  EXPECT_EQ(BucketNamed(buckets, "vision.embed+1").ranges.size(), 4u);
  EXPECT_TRUE(BucketNamed(buckets, "vision.embed+1").reached);
  EXPECT_FALSE(BucketNamed(buckets, "vision.post").reached);
}

TEST(PlanBucketsTest, FrozenParametersLieApart) {
  const model::Graph graph = ToyGraph();
  std::vector<bool> trainable = All(graph);
  trainable[graph.FindParam("language_model.layers.1.up.weight")] = false;
  const std::vector<BucketSpec> buckets = PlanBuckets(graph, trainable, 1);
  const BucketSpec& frozen = BucketNamed(buckets, "llm.blocks.1 (frozen)");
  ASSERT_EQ(frozen.ranges.size(), 1u);
  EXPECT_FALSE(frozen.trainable);
}

TEST(PlanSlotsTest, ConsecutiveBucketsRotateAndTheTiedOneHoldsItsOwn) {
  const model::Graph graph = ToyGraph({.vocabulary = 1100, .hidden = 256, .blocks = 5});
  const std::vector<BucketSpec> buckets = PlanBuckets(graph, All(graph), 2);
  const SlotPlan plan = PlanSlots(buckets);
  std::map<std::string, int> slot;
  for (size_t i = 0; i < buckets.size(); ++i) slot[buckets[i].name] = plan.slot_of_bucket[i];
  for (int block = 0; block < 5; ++block) EXPECT_NE(slot["llm.embed"], slot["llm.blocks." + std::to_string(block)]);
  for (int block = 1; block < 5; ++block) {
    EXPECT_NE(slot["llm.blocks." + std::to_string(block)], slot["llm.blocks." + std::to_string(block - 1)]);
  }
  EXPECT_EQ(plan.slot_numel.size(), 3u);
  for (size_t i = 0; i < buckets.size(); ++i) {
    if (plan.slot_of_bucket[i] >= 0) {
      EXPECT_GE(plan.slot_numel[plan.slot_of_bucket[i]], buckets[i].numel);
    } else {
      EXPECT_FALSE(buckets[i].reached);
    }
  }
}

TEST(OwnSlotsTest, EveryBucketThatTrainsHasItsOwn) {
  const model::Graph graph = ToyGraph({.vocabulary = 1100, .hidden = 256, .blocks = 5});
  const std::vector<BucketSpec> buckets = PlanBuckets(graph, All(graph), 2);
  const SlotPlan plan = OwnSlots(buckets);
  std::map<int, size_t> bucket_of_slot;
  for (size_t i = 0; i < buckets.size(); ++i) {
    EXPECT_EQ(plan.slot_of_bucket[i] >= 0, buckets[i].trainable && buckets[i].reached);
    if (plan.slot_of_bucket[i] < 0) continue;
    EXPECT_TRUE(bucket_of_slot.emplace(plan.slot_of_bucket[i], i).second);
    EXPECT_EQ(plan.slot_numel[static_cast<size_t>(plan.slot_of_bucket[i])], buckets[i].numel);
  }
  EXPECT_EQ(bucket_of_slot.size(), plan.slot_numel.size());
}

}  // namespace
}  // namespace vlm::train
