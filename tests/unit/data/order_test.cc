#include "data/order.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <set>

namespace vlm::data {
namespace {

TEST(PermuteTest, IsABijectionForEverySize) {
  for (const uint64_t size : {1u, 2u, 3u, 5u, 16u, 17u, 255u, 1000u, 4097u}) {
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t value = Permute(RngKey{size * 77}, size, i);
      ASSERT_LT(value, size);
      seen.insert(value);
    }
    EXPECT_EQ(seen.size(), size);
  }
}

TEST(PermuteTest, MovesMostElementsAndDependsOnTheKey) {
  constexpr uint64_t kSize = 10000;
  uint64_t fixed = 0, same = 0;
  for (uint64_t i = 0; i < kSize; ++i) {
    fixed += Permute(RngKey{1}, kSize, i) == i ? 1 : 0;
    same += Permute(RngKey{1}, kSize, i) == Permute(RngKey{2}, kSize, i) ? 1 : 0;
  }
  // A random permutation has one fixed point on average; 20 has probability below 1e-18.
  EXPECT_LT(fixed, 20u);
  EXPECT_LT(same, 20u);
}

TEST(PermuteTest, SpreadsNeighboursEvenly) {
  constexpr uint64_t kSize = 1 << 12;
  std::vector<int> buckets(16);
  for (uint64_t i = 0; i < 256; ++i) ++buckets[Permute(RngKey{9}, kSize, i) / 256];
  for (const int count : buckets) {  // 16 expected, standard deviation below 4
    EXPECT_GT(count, 2);
    EXPECT_LT(count, 36);
  }
}

TEST(OrderTest, OneSourceIsAFullPermutationPerEpoch) {
  const absl::StatusOr<Order> order = Order::Create(RngKey{3}, {{1500, 1.0}});
  ASSERT_TRUE(order.ok()) << order.status();
  EXPECT_EQ(order->positions_per_epoch(), 1500u);
  std::set<uint64_t> first, second;
  std::vector<uint64_t> first_order, second_order;
  for (uint64_t i = 0; i < 3000; ++i) {
    const Drawn drawn = order->At(i);
    EXPECT_EQ(drawn.source, 0);
    (drawn.epoch == 0 ? first : second).insert(drawn.sample);
    (drawn.epoch == 0 ? first_order : second_order).push_back(drawn.sample);
  }
  EXPECT_EQ(first.size(), 1500u);
  EXPECT_EQ(second.size(), 1500u);
  EXPECT_NE(first_order, second_order);
}

TEST(OrderTest, MixtureFollowsWeightsInEveryBlock) {
  const absl::StatusOr<Order> order = Order::Create(RngKey{4}, {{100, 3.0}, {5000, 1.0}});
  ASSERT_TRUE(order.ok());
  for (uint64_t block = 0; block < 3; ++block) {
    int first = 0;
    for (uint64_t i = 0; i < Order::kBlock; ++i) first += order->At(block * Order::kBlock + i).source == 0 ? 1 : 0;
    EXPECT_EQ(first, 768);
  }
}

TEST(OrderTest, EverySampleOfASourceIsSeenOncePerPass) {
  const absl::StatusOr<Order> order = Order::Create(RngKey{5}, {{300, 1.0}, {200, 1.0}});
  ASSERT_TRUE(order.ok());
  std::map<std::pair<int, uint64_t>, std::map<uint64_t, int>> seen;  // (source, epoch) -> sample -> times
  for (uint64_t i = 0; i < 8 * Order::kBlock; ++i) {
    const Drawn drawn = order->At(i);
    ++seen[{drawn.source, drawn.epoch}][drawn.sample];
  }
  for (uint64_t epoch = 0; epoch < 10; ++epoch) {
    EXPECT_EQ((seen[{0, epoch}].size()), 300u) << epoch;
    for (const auto& [sample, times] : seen[{0, epoch}]) EXPECT_EQ(times, 1) << sample;
  }
}

TEST(OrderTest, AnEpochOfAMixtureShowsEverySampleOfEverySource) {
  const absl::StatusOr<Order> order = Order::Create(RngKey{6}, {{300, 1.0}, {700, 1.0}});
  ASSERT_TRUE(order.ok());
  EXPECT_EQ(order->positions_per_epoch(), 2 * Order::kBlock);  // 512 positions of a block are the larger source's
  std::set<std::pair<int, uint64_t>> seen;
  for (uint64_t i = 0; i < order->positions_per_epoch(); ++i) seen.insert({order->At(i).source, order->At(i).sample});
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(OrderTest, ASourceOfWeightZeroIsNeverDrawn) {
  const absl::StatusOr<Order> order = Order::Create(RngKey{7}, {{5000, 0.0}, {100, 1.0}, {0, 0.0}});
  ASSERT_TRUE(order.ok()) << order.status();
  EXPECT_EQ(order->positions_per_epoch(), 100u);
  for (uint64_t i = 0; i < 2 * Order::kBlock; ++i) ASSERT_EQ(order->At(i).source, 1) << i;
}

TEST(OrderTest, RefusesWhatCannotBeDrawn) {
  EXPECT_FALSE(Order::Create(RngKey{1}, {}).ok());
  EXPECT_FALSE(Order::Create(RngKey{1}, {{0, 1.0}}).ok());
  EXPECT_FALSE(Order::Create(RngKey{1}, {{10, -1.0}}).ok());
  EXPECT_FALSE(Order::Create(RngKey{1}, {{10, 0.0}}).ok());
  EXPECT_FALSE(Order::Create(RngKey{1}, {{10, 1.0}, {10, 1e-9}}).ok());
  EXPECT_FALSE(Order::Create(RngKey{1}, {{10, 1.0}, {10, std::numeric_limits<double>::infinity()}}).ok());
  EXPECT_FALSE(Order::Create(RngKey{1}, {{10, 1.0}, {10, std::numeric_limits<double>::quiet_NaN()}}).ok());
}

}  // namespace
}  // namespace vlm::data
