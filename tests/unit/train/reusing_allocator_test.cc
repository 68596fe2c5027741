#include "train/reusing_allocator.h"

#include <c10/core/ScalarType.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include "base/random.h"

namespace vlm::train {
namespace {

constexpr size_t kMib = size_t{1} << 20;
constexpr ReusingAllocatorOptions kSmallRegions{.region_bytes = 4 * kMib, .retained_bytes_max = 8 * kMib};

TEST(ReusingAllocatorTest, FreedMemoryIsGivenOutAgain) {
  ReusingAllocator allocator(kSmallRegions);
  const void* first = allocator.allocate(kMib).get();
  EXPECT_EQ(allocator.allocate(kMib).get(), first);
  EXPECT_EQ(allocator.allocate(kMib - 100).get(), first);
  EXPECT_EQ(allocator.usage().mappings, 1u);
  EXPECT_EQ(allocator.usage().free_bytes, allocator.usage().mapped_bytes);
}

TEST(ReusingAllocatorTest, NeighboursAreJoinedInAnyOrderOfFreeing) {
  for (const std::vector<int>& order : {std::vector{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {0, 2, 1}}) {
    ReusingAllocator allocator(kSmallRegions);
    std::vector<c10::DataPtr> blocks;
    for (int i = 0; i < 3; ++i) blocks.push_back(allocator.allocate(kMib));
    for (const int i : order) blocks[i].clear();
    // Only as one block do they hold this.
    const c10::DataPtr large = allocator.allocate(7 * kMib / 2);
    EXPECT_EQ(allocator.usage().mappings, 1u) << order[0] << order[1] << order[2];
  }
}

TEST(ReusingAllocatorTest, TheSmallestBlockThatFitsIsTaken) {
  ReusingAllocator allocator(kSmallRegions);
  c10::DataPtr large = allocator.allocate(2 * kMib);
  const c10::DataPtr wall = allocator.allocate(100'000);
  c10::DataPtr small = allocator.allocate(kMib);
  const c10::DataPtr end = allocator.allocate(100'000);
  const void* const expected = small.get();
  large.clear();
  small.clear();
  EXPECT_EQ(allocator.allocate(kMib).get(), expected);
}

TEST(ReusingAllocatorTest, MoreThanARegionGetsOneOfItsOwnAndTooManyFreeBytesGoBack) {
  ReusingAllocator allocator(kSmallRegions);
  c10::DataPtr large = allocator.allocate(20 * kMib);
  std::memset(large.get(), 1, 20 * kMib);
  EXPECT_GE(allocator.usage().mapped_bytes, 20 * kMib);
  large.clear();
  EXPECT_EQ(allocator.usage().mapped_bytes, 0u);  // 20 MiB are more than may be kept
  allocator.allocate(6 * kMib);
  EXPECT_GE(allocator.usage().free_bytes, 6 * kMib);
}

// Rounds of blocks that live and end together, as activations do, of other sizes every round: what is mapped follows
// what is in use. With 300 MiB that may stay free it is not by that limit that it does.
TEST(ReusingAllocatorTest, ChangingShapesDoNotAddUp) {
  ReusingAllocator allocator({.region_bytes = 4 * kMib, .retained_bytes_max = 300 * kMib});
  Rng rng(RngKey{5});
  for (int round = 0; round < 200; ++round) {
    const size_t scale = (round % 3 + 1) * kMib + rng.Below(kMib);
    std::vector<c10::DataPtr> blocks;
    for (int i = 0; i < 8; ++i) {
      blocks.push_back(allocator.allocate(scale * static_cast<size_t>(i + 1) / 2 + rng.Below(200'000)));
      if (i % 3 == 2) blocks[blocks.size() - 2].clear();  // as an operation's own temporary tensor
    }
  }
  const ReusingAllocator::Usage usage = allocator.usage();
  EXPECT_GT(usage.used_bytes_peak, 50 * kMib);
  EXPECT_LE(usage.mapped_bytes_peak, usage.used_bytes_peak * 3 / 2) << usage.mappings << " mappings";
}

TEST(ReusingAllocatorTest, EqualRoundsMapNothingNew) {
  ReusingAllocator allocator(kSmallRegions);
  uint64_t mappings = 0;
  for (int round = 0; round < 10; ++round) {
    const c10::DataPtr first = allocator.allocate(3 * kMib), second = allocator.allocate(2 * kMib);
    if (round == 0) mappings = allocator.usage().mappings;
    EXPECT_EQ(allocator.usage().mappings, mappings);
  }
}

// In a process of its own, with no more address space than it has: first three regions of 32 MiB, then one of 64, for
// which two of them are given back; the page that aligns it needs the third.
TEST(ReusingAllocatorDeathTest, FreeRegionsGoBackBeforeMemoryRunsOut) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own mappings need address space";
#endif
  const auto tight = [] {
    ReusingAllocator allocator({.region_bytes = 32 * kMib, .retained_bytes_max = 200 * kMib});
    std::vector<c10::DataPtr> blocks;
    for (int i = 0; i < 3; ++i) blocks.push_back(allocator.allocate(31 * kMib));
    blocks.clear();
    if (allocator.usage().free_bytes != 96 * kMib) std::_Exit(2);
    std::ifstream statm("/proc/self/statm");
    size_t pages = 0;
    statm >> pages;
    const rlimit limit{pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)), RLIM_INFINITY};
    if (setrlimit(RLIMIT_AS, &limit) != 0) std::_Exit(3);
    const c10::DataPtr large = allocator.allocate(63 * kMib);
    if (large.get() == nullptr || allocator.usage().mapped_bytes != 64 * kMib) std::_Exit(4);
    std::_Exit(0);
  };
  EXPECT_EXIT(tight(), ::testing::ExitedWithCode(0), "");
}

TEST(ReusingAllocatorTest, SmallAndEmptyBlocksAreTheCLibrarys) {
  ReusingAllocator allocator(kSmallRegions);
  const c10::DataPtr small = allocator.allocate(ReusingAllocator::kSmallBytes - 1), empty = allocator.allocate(0);
  EXPECT_EQ(allocator.usage().mapped_bytes, 0u);
  EXPECT_NE(small.get(), nullptr);
  EXPECT_EQ(empty.get(), nullptr);
  void* const raw = allocator.raw_allocate(kMib);
  allocator.raw_deallocate(raw);
  EXPECT_EQ(allocator.usage().free_bytes, allocator.usage().mapped_bytes);
}

TEST(ReusingAllocatorTest, MemoryThatIsNotThereThrowsLikeLibTorch) {
  ReusingAllocator allocator;
  try {
    allocator.allocate(size_t{1} << 60);
    FAIL() << "got 2^60 bytes";
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find("can't allocate memory"), std::string::npos) << error.what();
  }
}

// Blocks of random sizes and lives on four threads: each stays aligned and keeps what was written into it.
TEST(ReusingAllocatorTest, BlocksNeverOverlap) {
  ReusingAllocator allocator(kSmallRegions);
  const auto work = [&allocator](uint64_t seed) {
    Rng rng(RngKey{seed});
    struct Held {
      c10::DataPtr data;
      size_t bytes = 0;
      unsigned char mark = 0;
    };
    std::vector<Held> held(24);
    for (int i = 0; i < 4000; ++i) {
      Held& one = held[rng.Below(held.size())];
      const auto* bytes = static_cast<const unsigned char*>(one.data.get());
      for (size_t at = 0; at < one.bytes; at += 509) ASSERT_EQ(bytes[at], one.mark);
      if (one.bytes > 0) ASSERT_EQ(bytes[one.bytes - 1], one.mark);
      one.data.clear();
      one.bytes = 1 + rng.Below(i % 50 == 0 ? 2 * kMib : 200'000);
      one.mark = static_cast<unsigned char>(rng.Below(256));
      one.data = allocator.allocate(one.bytes);
      ASSERT_EQ(reinterpret_cast<uintptr_t>(one.data.get()) % 64, 0u);
      std::memset(one.data.get(), one.mark, one.bytes);
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 4; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(allocator.usage().free_bytes, allocator.usage().mapped_bytes);
}

}  // namespace
}  // namespace vlm::train
