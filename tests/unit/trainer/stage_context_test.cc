#include "trainer/stage_context.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_system.h"
#include "trainer/exit_code.h"

namespace vlm::trainer {
namespace {

class StageContextTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/context_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder_).ok());
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_).ok());
    ASSERT_TRUE(WriteFileDurably(PosixFileSystem(), folder_ + "/a.jsonl", "{}").ok());
    context_.assignment = &assignment_;
    context_.files = PosixFileSystem();
  }
  ExitCode CodeOf(const std::string& pattern) const { return ExitCodeOf(context_.DataFiles(pattern).status()); }

  std::string folder_;
  Assignment assignment_;
  StageContext context_;
};

TEST_F(StageContextTest, DataFilesLieBelowTheWorkersRoots) {
  assignment_.data_roots = {folder_ + "/elsewhere", folder_};
  EXPECT_THAT(*context_.DataFiles(folder_ + "/*.jsonl"), testing::ElementsAre(folder_ + "/a.jsonl"));
}

TEST_F(StageContextTest, ARootThatIsMissingOrLeftIsTheUsersError) {
  EXPECT_EQ(CodeOf("*.jsonl"), ExitCode::kUserError) << "no root at all";
  EXPECT_TRUE(absl::IsFailedPrecondition(context_.DataFiles("*.jsonl").status()));
  assignment_.data_roots = {folder_};
  EXPECT_EQ(CodeOf("*.jsonl"), ExitCode::kOk);
  EXPECT_EQ(CodeOf("/etc/passwd"), ExitCode::kUserError);
  EXPECT_EQ(CodeOf("*.tar"), ExitCode::kUserError);
}

}  // namespace
}  // namespace vlm::trainer
