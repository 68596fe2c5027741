#include "coordinator/log_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "base/file_system.h"

namespace vlm::coordinator {
namespace {

class LogStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/vlm-logs-" + std::to_string(getpid()) + "-" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), root_).ok());
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(PosixFileSystem(), root_).ok()); }

  LogStore Open(uint64_t job_bytes_max = 1 << 20, size_t gaps_max = 8) {
    return LogStore({.root = root_, .job_bytes_max = job_bytes_max, .gaps_max = gaps_max});
  }
  static std::string All(LogStore* store, const LogKey& key) {
    std::string text;
    uint64_t offset = 0;
    while (true) {
      const auto piece = store->Read(key, offset, 7);
      EXPECT_TRUE(piece.ok()) << piece.status();
      if (!piece.ok()) return text;
      if (piece->dropped > 0) text += "[" + std::to_string(piece->dropped) + "]";
      if (piece->data.empty()) return text;
      text += piece->data;
      offset = piece->offset + piece->data.size();
    }
  }

  const LogKey key_{"job-1", "sft", 3, 0};
  std::string root_;
};

TEST_F(LogStoreTest, ChunksAreStoredOnceHoweverOftenTheyCome) {
  LogStore store = Open();
  EXPECT_EQ(store.Append(key_, 0, "hello ")->end, 6u);
  EXPECT_EQ(store.Append(key_, 0, "hello ")->stored, 0u);
  const auto overlapping = store.Append(key_, 3, "lo world");
  EXPECT_EQ(overlapping->end, 11u);
  EXPECT_EQ(overlapping->stored, 5u);
  EXPECT_EQ(All(&store, key_), "hello world");
}

TEST_F(LogStoreTest, LostBytesAreAGapAlsoAfterARestart) {
  {
    LogStore store = Open();
    ASSERT_TRUE(store.Append(key_, 0, "abc").ok());
    EXPECT_EQ(store.Append(key_, 10, "xyz")->dropped, 7u);
    ASSERT_TRUE(store.Append(key_, 20, "end").ok());
  }
  LogStore store = Open();
  EXPECT_EQ(All(&store, key_), "abc[7]xyz[7]end");
  EXPECT_EQ(store.Append(key_, 5, "late!")->stored, 0u) << "what was given up stays given up";
  const auto inside = store.Read(key_, 5, 100);
  ASSERT_TRUE(inside.ok());
  EXPECT_EQ(inside->dropped, 5u);
  EXPECT_EQ(inside->offset, 10u);
  EXPECT_EQ(inside->data, "xyz");
}

TEST_F(LogStoreTest, OldestAttemptsGoFirstWhenAJobHasTooMuch) {
  LogStore store = Open(/*job_bytes_max=*/30'000);
  const std::string text(10'000, 'x');
  for (uint64_t fence = 1; fence <= 3; ++fence) {
    ASSERT_TRUE(store.Append({"job-1", "sft", fence, 0}, 0, text).ok());
  }
  ASSERT_TRUE(store.Append({"job-2", "sft", 1, 0}, 0, text).ok());
  ASSERT_TRUE(store.Append({"job-1", "sft", 4, 0}, 0, text).ok());
  EXPECT_TRUE(absl::IsNotFound(store.Read({"job-1", "sft", 1, 0}, 0, 10).status()));
  EXPECT_TRUE(store.Read({"job-1", "sft", 3, 0}, 0, 10).ok());
  EXPECT_TRUE(store.Read({"job-2", "sft", 1, 0}, 0, 10).ok()) << "another job's logs are its own";
}

TEST_F(LogStoreTest, TheNewestAttemptIsCutAtTheLimitAndSaysSo) {
  LogStore store = Open(/*job_bytes_max=*/10'000);
  ASSERT_TRUE(store.Append(key_, 0, std::string(9'000, 'x')).ok());
  const auto over = store.Append(key_, 9'000, std::string(2'000, 'y'));
  ASSERT_TRUE(over.ok()) << over.status();
  EXPECT_EQ(over->dropped, 2'000u);
  EXPECT_EQ(over->end, 11'000u) << "acknowledged, or the worker would send it for ever";
  const auto rest = store.Read(key_, 9'000, 100);
  ASSERT_TRUE(rest.ok());
  EXPECT_EQ(rest->dropped, 2'000u);
  EXPECT_EQ(rest->data, "");
}

TEST_F(LogStoreTest, AnAttemptIsCutAtItsOwnLimit) {
  LogStore store({.root = root_, .attempt_bytes_max = 10'000});
  ASSERT_TRUE(store.Append(key_, 0, std::string(6'000, 'x')).ok());
  const LogKey peer{"job-1", "sft", 3, 1};
  EXPECT_EQ(store.Append(peer, 0, std::string(6'000, 'x'))->dropped, 6'000u) << "its ranks share the limit";
  EXPECT_EQ(store.Append({"job-1", "sft", 4, 0}, 0, std::string(6'000, 'x'))->stored, 6'000u);
  EXPECT_TRUE(store.Read(key_, 0, 10).ok()) << "nothing was removed for it";
}

TEST_F(LogStoreTest, EndedAttemptsOfAnyJobGoWhenAllTogetherAreTooMuch) {
  LogStore store(
      {.root = root_, .total_bytes_max = 50'000, .job_ended = [](const std::string& job) { return job == "over"; }});
  const std::string text(10'000, 'x');
  const auto age = [this](const LogKey& key, int minutes) {  // file times are too coarse to wait for
    const std::string path = root_ + "/" + key.job + "/" + key.stage + "/" + std::to_string(key.fence) + "/rank-0.log";
    std::filesystem::last_write_time(path,
                                     std::filesystem::file_time_type::clock::now() - std::chrono::minutes(minutes));
  };
  const LogKey replaced{"job-1", "sft", 1, 0}, running{"job-1", "sft", 2, 0}, over{"over", "sft", 1, 0};
  for (const LogKey& key : {running, replaced, over}) ASSERT_TRUE(store.Append(key, 0, text).ok());
  age(running, 9);
  age(over, 5);
  age(replaced, 1);
  ASSERT_EQ(store.Append({"job-2", "sft", 1, 0}, 0, text)->stored, text.size());
  ASSERT_EQ(store.Append({"job-3", "sft", 1, 0}, 0, text)->stored, text.size()) << "exactly at the limit";
  ASSERT_EQ(store.Append({"job-4", "sft", 1, 0}, 0, text)->stored, text.size());
  EXPECT_TRUE(absl::IsNotFound(store.Read(over, 0, 1).status())) << "the one that was not written for longest";
  ASSERT_EQ(store.Append({"job-5", "sft", 1, 0}, 0, text)->stored, text.size());
  EXPECT_TRUE(absl::IsNotFound(store.Read(replaced, 0, 1).status())) << "a newer attempt of its stage has come";
  EXPECT_EQ(store.Append({"job-6", "sft", 1, 0}, 0, text)->dropped, text.size()) << "the rest may still run";
  EXPECT_TRUE(store.Read(running, 0, 1).ok()) << "however long it has been silent";
}

TEST_F(LogStoreTest, AllTogetherAreCountedAgainAfterARestart) {
  {
    LogStore store({.root = root_, .total_bytes_max = 10'000});
    ASSERT_TRUE(store.Append(key_, 0, std::string(9'000, 'x')).ok());
  }
  sync();  // blocks are counted, and the file system gives them late
  LogStore store({.root = root_, .total_bytes_max = 10'000});
  EXPECT_EQ(store.Append(key_, 9'000, std::string(2'000, 'x'))->dropped, 2'000u);
}

TEST_F(LogStoreTest, GapsAreBounded) {
  LogStore store = Open(1 << 20, /*gaps_max=*/3);
  for (uint64_t i = 0; i < 10; ++i) ASSERT_TRUE(store.Append(key_, 10 * i + 5, "x").ok());
  EXPECT_EQ(All(&store, key_), "[5]x[9]x[9]x[70]");
}

TEST_F(LogStoreTest, NamesThatAreNoPathPartsAreRefused) {
  LogStore store = Open();
  for (const char* bad : {"", "..", "a/b", ".hidden", "a b", "a\n"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(store.Append({bad, "sft", 1, 0}, 0, "x").status())) << bad;
    EXPECT_TRUE(absl::IsInvalidArgument(store.Append({"job", bad, 1, 0}, 0, "x").status())) << bad;
    EXPECT_TRUE(absl::IsInvalidArgument(store.Read({bad, "sft", 1, 0}, 0, 1).status())) << bad;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(store.Append({"job", "sft", 1, -1}, 0, "x").status()));
  EXPECT_TRUE(absl::IsNotFound(store.Read(key_, 0, 1).status()));
}

}  // namespace
}  // namespace vlm::coordinator
