#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace vlm {
namespace {

// Known answers of Random123 1.14 (tests/kat_vectors, philox4x32 with 10 rounds) whose upper counter words are
// zero, as ours always are.
TEST(Philox, MatchesThePublishedVector) {
  EXPECT_EQ(Philox(RngKey{0}, 0), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
}

// The round function in its textbook form, with the full counter, against which the published vectors with other
// counters hold; then ours against it on many keys and counters.
std::array<uint32_t, 4> Textbook(std::array<uint32_t, 2> key, std::array<uint32_t, 4> counter) {
  for (int round = 0; round < 10; ++round) {
    if (round > 0) {
      key[0] += 0x9E3779B9u;
      key[1] += 0xBB67AE85u;
    }
    const uint64_t p0 = 0xD2511F53ull * counter[0], p1 = 0xCD9E8D57ull * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
  }
  return counter;
}

TEST(Philox, MatchesTheDefinitionEverywhere) {
  const uint32_t all = 0xffffffffu;
  ASSERT_EQ(Textbook({all, all}, {all, all, all, all}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  ASSERT_EQ(Textbook({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  for (uint64_t i = 0; i < 1000; ++i) {
    const uint64_t key = Mix64(i), counter = Mix64(~i);
    EXPECT_EQ(Philox(RngKey{key}, counter),
              Textbook({static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)},
                       {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0}));
  }
}

// SplitMix64 seeded with 1234567: Vigna's reference, first outputs.
TEST(Mix64, MatchesTheReferenceSequence) {
  uint64_t state = 1234567;
  EXPECT_EQ(Mix64(state), 6457827717110365317ull);
  state += 0x9e3779b97f4a7c15ull;
  EXPECT_EQ(Mix64(state), 3203168211198807973ull);
}

TEST(RngKey, ChildrenDifferAndDoNotDependOnEachOther) {
  const RngKey root{42};
  std::set<uint64_t> children;
  for (uint64_t i = 0; i < 1000; ++i) children.insert(root.Derive(i).value);
  for (const char* const name : {"", "a", "b", "ab", "ba"}) children.insert(root.Derive(name).value);
  EXPECT_EQ(children.size(), 1005u);
  EXPECT_EQ(root.Derive("data").Derive(7), RngKey{42}.Derive("data").Derive(7));
  EXPECT_NE(root.Derive("data"), RngKey{43}.Derive("data"));
}

TEST(Rng, IsAFunctionOfItsKey) {
  Rng a(RngKey{1}), b(RngKey{1}), c(RngKey{2});
  for (int i = 0; i < 100; ++i) {
    const uint64_t value = a.NextU64();
    EXPECT_EQ(value, b.NextU64());
    EXPECT_NE(value, c.NextU64());
  }
}

TEST(Rng, BelowIsUniform) {
  Rng rng(RngKey{3});
  std::array<int, 7> counts{};
  for (int i = 0; i < 70'000; ++i) ++counts[rng.Below(7)];
  for (const int count : counts) EXPECT_NEAR(count, 10'000, 500);  // five standard deviations
  for (int i = 0; i < 100; ++i) EXPECT_EQ(rng.Below(1), 0u);
  EXPECT_LT(rng.Below(uint64_t{1} << 63), uint64_t{1} << 63);
}

TEST(Rng, UniformAndNormalHaveTheirMoments) {
  Rng rng(RngKey{4});
  double sum = 0, normal_sum = 0, normal_squares = 0;
  constexpr int kDraws = 100'000;
  for (int i = 0; i < kDraws; ++i) {
    const double uniform = rng.Uniform();
    ASSERT_TRUE(uniform >= 0 && uniform < 1);
    sum += uniform;
    const double normal = rng.Normal();
    ASSERT_TRUE(std::isfinite(normal));
    normal_sum += normal;
    normal_squares += normal * normal;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(normal_sum / kDraws, 0, 0.016);
  EXPECT_NEAR(normal_squares / kDraws, 1, 0.023);
}

}  // namespace
}  // namespace vlm
