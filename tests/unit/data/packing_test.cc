#include "data/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace vlm::data {
namespace {

std::vector<uint32_t> RandomLengths(uint64_t seed, size_t count, uint32_t low, uint32_t high) {
  Rng rng(RngKey{seed});
  std::vector<uint32_t> lengths(count);
  for (uint32_t& length : lengths) length = low + static_cast<uint32_t>(rng.Below(high - low + 1));
  return lengths;
}

TEST(PackWindowTest, PlacesEveryItemOnceWithinCapacity) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<uint32_t> lengths = RandomLengths(seed, 500, 1, 128);
    std::vector<int> seen(lengths.size());
    for (const Pack& pack : PackWindow(lengths, 128, RngKey{seed})) {
      uint32_t total = 0;
      for (const uint32_t item : pack) {
        total += lengths[item];
        ++seen[item];
      }
      EXPECT_LE(total, 128u);
      EXPECT_GT(total, 0u);
    }
    EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
  }
}

TEST(PackWindowTest, FillsWellOnShortSamples) {
  const std::vector<uint32_t> lengths = RandomLengths(7, 2048, 20, 200);
  const double tokens = std::accumulate(lengths.begin(), lengths.end(), 0.0);
  const size_t packs = PackWindow(lengths, 1024, RngKey{1}).size();
  EXPECT_GT(tokens / (1024.0 * static_cast<double>(packs)), 0.97);
}

TEST(PackWindowTest, IsAPureFunctionOfLengthsAndKey) {
  const std::vector<uint32_t> lengths = RandomLengths(3, 300, 1, 64);
  EXPECT_EQ(PackWindow(lengths, 64, RngKey{5}), PackWindow(lengths, 64, RngKey{5}));
  EXPECT_NE(PackWindow(lengths, 64, RngKey{5}), PackWindow(lengths, 64, RngKey{6}));
}

TEST(PackWindowTest, EmptyWindowHasNoPacks) { EXPECT_TRUE(PackWindow({}, 64, RngKey{5}).empty()); }

}  // namespace
}  // namespace vlm::data
