#include "checkpoint/client/carried_files.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <future>

#include "absl/strings/str_cat.h"
#include "base/hooked_file_system.h"

namespace vlm::checkpoint {
namespace {

const std::vector<std::string> kNames = {"frozen"};

class CarriedFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ =
        absl::StrCat(::testing::TempDir(), "carried_", ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(root_);
    for (const char* const step : {"/1", "/2"}) std::filesystem::create_directories(root_ + step);
    for (const char* const name : {"frozen", "trained"}) {
      const auto written = WriteDurableFile(PosixFileSystem(), absl::StrCat(root_, "/1/", name), name);
      ASSERT_TRUE(written.ok()) << written.status();
      claims_.push_back({name, written->bytes, written->digest});
    }
    carried_.Remember(root_ + "/1", claims_, kNames);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::string root_;
  std::vector<FileClaim> claims_;
  CarriedFiles carried_;
};

TEST_F(CarriedFilesTest, LinksWhatWasRememberedWithItsSums) {
  const auto linked = carried_.LinkInto(PosixFileSystem(), root_ + "/2");
  ASSERT_TRUE(linked.ok()) << linked.status();
  EXPECT_EQ(*linked, std::vector<FileClaim>{claims_[0]});
  EXPECT_TRUE(std::filesystem::equivalent(root_ + "/1/frozen", root_ + "/2/frozen"));
  EXPECT_FALSE(std::filesystem::exists(root_ + "/2/trained"));
  std::filesystem::remove_all(root_ + "/1");  // the file lives as long as one step names it
  const auto damage = CheckFiles(PosixFileSystem(), root_ + "/2", *linked);
  ASSERT_TRUE(damage.ok()) << damage.status();
  EXPECT_TRUE(damage->empty());
}

TEST_F(CarriedFilesTest, AFileThatIsGoneIsLeftToBeWrittenAgain) {
  for (const char* const gone : {"/1/frozen", "/1/frozen.sum"}) {
    carried_.Remember(root_ + "/1", claims_, kNames);
    std::filesystem::remove(root_ + gone);
    const auto linked = carried_.LinkInto(PosixFileSystem(), root_ + "/2");
    ASSERT_TRUE(linked.ok()) << linked.status();
    EXPECT_TRUE(linked->empty());
    EXPECT_TRUE(std::filesystem::is_empty(root_ + "/2"));  // so that it can be written
  }
}

TEST_F(CarriedFilesTest, WhoeverRemembersDoesNotWaitForTheDiskAndIsNotForgotten) {
  carried_.Remember(root_ + "/gone", claims_, kNames);
  std::future<void> other;
  bool remembered = false;
  const auto slow = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string&) {
    if (operation == FileOperation::kLink && !other.valid()) {
      other = std::async(std::launch::async, [this] { carried_.Remember(root_ + "/1", claims_, kNames); });
      remembered = other.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
    }
    return absl::OkStatus();
  });
  const auto linked = carried_.LinkInto(slow.get(), root_ + "/2");
  ASSERT_TRUE(linked.ok()) << linked.status();
  EXPECT_TRUE(remembered) << "while the other file is being linked";
  EXPECT_TRUE(linked->empty());
  const auto again = carried_.LinkInto(PosixFileSystem(), root_ + "/2");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, std::vector<FileClaim>{claims_[0]});
}

}  // namespace
}  // namespace vlm::checkpoint
