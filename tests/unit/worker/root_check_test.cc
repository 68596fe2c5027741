#include "worker/root_check.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/file_system.h"

namespace vlm::worker {
namespace {

TEST(IsBelowTest, ComparesWholeNames) {
  const std::vector<std::string> roots = {"/data/jobs", "/srv/"};
  EXPECT_TRUE(IsBelow(roots, "/data/jobs"));
  EXPECT_TRUE(IsBelow(roots, "/data/jobs/"));
  EXPECT_TRUE(IsBelow(roots, "/data/jobs/a/b"));
  EXPECT_TRUE(IsBelow(roots, "/srv/x"));
  EXPECT_FALSE(IsBelow(roots, "/data/jobsite"));
  EXPECT_FALSE(IsBelow(roots, "/data"));
  EXPECT_FALSE(IsBelow(roots, "/data/jobs/../../etc"));
  EXPECT_FALSE(IsBelow(roots, "/data/jobs/./a"));
  EXPECT_FALSE(IsBelow(roots, "data/jobs"));
  EXPECT_FALSE(IsBelow(roots, ""));
  EXPECT_TRUE(IsBelow({"/"}, "/anything"));
}

class CheckRootTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/check_root";
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), root_).ok());
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), root_ + "/sub").ok());
    std::ofstream(root_ + "/sub/nonce") << "abc";
  }
  std::string root_;
};

TEST_F(CheckRootTest, AcceptsTheSameBytesOnly) {
  EXPECT_TRUE(CheckRoot({root_}, root_, "sub/nonce", "abc").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckRoot({root_}, root_, "sub/nonce", "abd")));
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckRoot({root_}, root_, "sub/nonce", "abcd")));
  EXPECT_TRUE(absl::IsNotFound(CheckRoot({root_}, root_, "other", "abc")));
}

TEST_F(CheckRootTest, RefusesRootsThatAreNotAllowedAndPathsThatLeaveThem) {
  EXPECT_TRUE(absl::IsPermissionDenied(CheckRoot({root_ + "/sub"}, root_, "sub/nonce", "abc")));
  EXPECT_TRUE(absl::IsPermissionDenied(CheckRoot({}, root_, "sub/nonce", "abc")));
  EXPECT_FALSE(CheckRoot({root_ + "/sub"}, root_ + "/sub", "../sub/nonce", "abc").ok());
  EXPECT_FALSE(CheckRoot({root_}, root_, root_ + "/sub/nonce", "abc").ok());
  ASSERT_EQ(symlink("/etc/hostname", (root_ + "/link").c_str()), 0);
  EXPECT_FALSE(CheckRoot({root_}, root_, "link", "abc").ok());
}

}  // namespace
}  // namespace vlm::worker
