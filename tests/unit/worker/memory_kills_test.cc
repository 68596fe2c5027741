#include "worker/memory_kills.h"

#include <gtest/gtest.h>

namespace vlm::worker {
namespace {

constexpr absl::Duration kStart = absl::Hours(5);

TEST(MemoryKillsTest, WhatWasCountedBeforeIsNobodys) {
  MemoryKills kills(4);
  kills.Read(kStart, 4);
  EXPECT_FALSE(kills.Take(kStart));
}

TEST(MemoryKillsTest, ARisenCountIsOneDeathForEachKill) {
  MemoryKills kills(4);
  kills.Read(kStart, 6);
  EXPECT_TRUE(kills.Take(kStart));
  EXPECT_TRUE(kills.Take(kStart + absl::Seconds(2)));
  EXPECT_FALSE(kills.Take(kStart + absl::Seconds(2)));
  kills.Read(kStart + absl::Seconds(3), 7);
  EXPECT_TRUE(kills.Take(kStart + absl::Seconds(3)));
}

// Another process of the group, or of the machine, was killed while a rank ran that is killed by hand much later.
TEST(MemoryKillsTest, AnOldKillIsNotALaterDeath) {
  MemoryKills kills(4);
  kills.Read(kStart, 5);
  const absl::Duration later = kStart + absl::Minutes(3);
  kills.Read(later, 5);
  EXPECT_FALSE(kills.Take(later));
  kills.Read(later, 6);
  EXPECT_TRUE(kills.Take(later)) << "a kill of now is not taken for the old one";
  EXPECT_FALSE(kills.Take(later));
}

TEST(MemoryKillsTest, ACountThatFallsBeginsAnew) {
  MemoryKills kills(4);
  kills.Read(kStart, 0);
  EXPECT_FALSE(kills.Take(kStart));
  kills.Read(kStart, 1);
  EXPECT_TRUE(kills.Take(kStart));
}

}  // namespace
}  // namespace vlm::worker
