#include "coordinator/core/scheduler.h"

#include <gtest/gtest.h>

namespace vlm::coordinator {
namespace {

NodeOffer Node(const std::string& id, const std::vector<std::string>& holders,
               v1::DeviceKind kind = v1::DEVICE_KIND_CPU_SLOT) {
  NodeOffer offer;
  offer.node_id = id;
  for (size_t i = 0; i < holders.size(); ++i) {
    NodeOffer::Slot& slot = offer.slots.emplace_back();
    slot.device.set_kind(kind);
    slot.device.set_index(static_cast<int32_t>(i));
    slot.holder = holders[i];
  }
  return offer;
}

TEST(DecidePlacement, TakesAsManyRanksAsFitBetweenMinAndMax) {
  const std::vector<NodeOffer> offers = {Node("a", {"", ""}), Node("b", {"", "", ""})};
  EXPECT_EQ(DecidePlacement({1, 4}, offers).ranks.size(), 4u);
  EXPECT_EQ(DecidePlacement({1, 9}, offers).ranks.size(), 5u);
  EXPECT_EQ(DecidePlacement({5, 5}, offers).ranks.size(), 5u);
}

TEST(DecidePlacement, FillsTheEmptierWorkerFirst) {
  const PlacementDecision decision = DecidePlacement({1, 3}, {Node("a", {"", "x"}), Node("b", {"", ""})});
  ASSERT_EQ(decision.ranks.size(), 3u);
  EXPECT_EQ(decision.ranks[0].node_id, "b");
  EXPECT_EQ(decision.ranks[1].node_id, "b");
  EXPECT_EQ(decision.ranks[2].node_id, "a");
}

TEST(DecidePlacement, SaysWhatIsMissingAndWhoHoldsIt) {
  const PlacementDecision decision = DecidePlacement({2, 2}, {Node("a", {"", "other/train"})});
  EXPECT_TRUE(decision.ranks.empty());
  EXPECT_TRUE(decision.reserve);
  EXPECT_EQ(decision.kind, "capacity");
  EXPECT_EQ(decision.reason, "needs 2 CPU slots, 1 of 2 are free; other/train holds 1");
}

TEST(DecidePlacement, WhatCannotFitReservesNothing) {
  const PlacementDecision decision = DecidePlacement({3, 4}, {Node("a", {"", ""})});
  EXPECT_TRUE(decision.ranks.empty());
  EXPECT_FALSE(decision.reserve);
  EXPECT_EQ(decision.kind, "workers");
  EXPECT_EQ(decision.reason, "needs 3 CPU slots, workers offer 2: start more workers or lower ranks.min");
}

TEST(DecidePlacement, WaitsForARunningRootCheckRatherThanStartingSmaller) {
  NodeOffer unchecked = Node("b", {""});
  unchecked.usable = NodeOffer::Usable::kRootUnchecked;
  const PlacementDecision decision = DecidePlacement({1, 2}, {Node("a", {""}), unchecked});
  EXPECT_TRUE(decision.ranks.empty());
  EXPECT_TRUE(decision.reserve);
  EXPECT_EQ(decision.kind, "root");
  EXPECT_EQ(DecidePlacement({1, 1}, {Node("a", {""}), unchecked}).ranks.size(), 1u);
}

TEST(DecidePlacement, AWorkerThatDoesNotSeeTheArtifactsGetsNoRank) {
  NodeOffer blind = Node("b", {"", ""});
  blind.usable = NodeOffer::Usable::kRootFailed;
  blind.problem = "does not see /artifacts";
  EXPECT_EQ(DecidePlacement({1, 3}, {Node("a", {""}), blind}).ranks.size(), 1u);
  const PlacementDecision waiting = DecidePlacement({2, 3}, {Node("a", {""}), blind});
  EXPECT_FALSE(waiting.reserve);
  EXPECT_EQ(waiting.kind, "root");
  EXPECT_NE(waiting.reason.find("b: does not see /artifacts"), std::string::npos) << waiting.reason;
}

TEST(DecidePlacement, WaitsForWorkersThatReattach) {
  NodeOffer unknown = Node("b", {"", ""});
  unknown.usable = NodeOffer::Usable::kUnknown;
  const PlacementDecision decision = DecidePlacement({3, 3}, {Node("a", {""}), unknown});
  EXPECT_TRUE(decision.reserve);
  EXPECT_EQ(decision.kind, "workers");
}

TEST(DecidePlacement, PrefersGpusWhenNothingIsSaid) {
  const std::vector<NodeOffer> offers = {Node("a", {"", ""}), Node("b", {""}, v1::DEVICE_KIND_CUDA)};
  const PlacementDecision decision = DecidePlacement({1, 2}, offers);
  ASSERT_EQ(decision.ranks.size(), 1u);
  EXPECT_EQ(decision.ranks[0].node_id, "b");
  EXPECT_EQ(DecidePlacement({1, 2, v1::DEVICE_KIND_CPU_SLOT}, offers).ranks.size(), 2u);
}

TEST(StageQueue, KeepsTheOrderOfSubmission) {
  StageQueue queue;
  queue.Add({2, 0, "late"});
  queue.Add({1, 1, "early"});
  queue.Add({1, 0, "first"});
  EXPECT_EQ(queue.ready().begin()->stage_uid, "first");
  EXPECT_EQ(std::next(queue.ready().begin())->stage_uid, "early");
  queue.Park({1, 0, "first"});
  EXPECT_EQ(queue.ready().begin()->stage_uid, "early");
  EXPECT_EQ(queue.size(), 3u);
  queue.Unpark();
  EXPECT_EQ(queue.ready().begin()->stage_uid, "first");
}

}  // namespace
}  // namespace vlm::coordinator
