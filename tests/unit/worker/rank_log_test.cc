#include "worker/rank_log.h"

#include <gtest/gtest.h>

#include "base/file_system.h"

namespace vlm::worker {
namespace {

class RankLogTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/rank_log_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder_).ok());
    log_ = RankLog::Create(folder_, kSegment).value();
  }
  // Everything from `offset`; a hole of n bytes reads "<n>".
  std::string ReadAll(uint64_t offset, size_t step = 7) {
    std::string text;
    while (true) {
      const RankLog::Chunk chunk = log_->Read(offset, step).value();
      if (chunk.dropped_bytes > 0) text += "<" + std::to_string(chunk.dropped_bytes) + ">";
      if (chunk.data.empty()) return text;
      text += chunk.data;
      offset = chunk.offset + chunk.data.size();
    }
  }
  static constexpr uint64_t kSegment = 10;
  std::string folder_;
  std::unique_ptr<RankLog> log_;
};

TEST_F(RankLogTest, ReadsWhatWasWrittenFromAnyOffset) {
  ASSERT_TRUE(log_->Append("hello ").ok());
  ASSERT_TRUE(log_->Append("big round world").ok());
  EXPECT_EQ(log_->size(), 21u);
  EXPECT_EQ(ReadAll(0), "hello big round world");
  EXPECT_EQ(ReadAll(6), "big round world");
  EXPECT_EQ(ReadAll(21), "");
}

TEST_F(RankLogTest, KeepsTheFirstSegmentAndTheNewestSeven) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += static_cast<char>('a' + i % 26);
  ASSERT_TRUE(log_->Append(text).ok());
  EXPECT_EQ(log_->size(), 200u);
  // Segments 0 and 13 to 19 are left: 12 of 20 are gone.
  EXPECT_EQ(ReadAll(0), text.substr(0, 10) + "<120>" + text.substr(130));
  EXPECT_EQ(PosixFileSystem()->List(folder_).value().size(), 8u);
}

TEST_F(RankLogTest, GoesOnAfterItWasOpenedAgain) {
  ASSERT_TRUE(log_->Append("0123456789abc").ok());
  log_ = RankLog::Create(folder_, kSegment).value();
  EXPECT_EQ(log_->size(), 13u);
  ASSERT_TRUE(log_->Append("def").ok());
  EXPECT_EQ(ReadAll(0), "0123456789abcdef");
}

}  // namespace
}  // namespace vlm::worker
