#include "base/crash_point.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"

namespace vlm {
namespace {

// Points are armed in child processes only: arming holds for the life of a process.
class CrashPointDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(::testing::TempDir(), "crash_point_",
                           ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Set(const std::string& name, const std::string& line) { std::ofstream(folder_ + "/" + name) << line << "\n"; }
  bool IsSet(const std::string& name) const { return std::filesystem::exists(folder_ + "/" + name); }

  // Passes "save.done" that many times in a child; its wait status.
  int PassInChild(int times) {
    const pid_t child = fork();
    if (child == 0) {
      ArmCrashPoints(folder_.c_str());
      for (int i = 0; i < times; ++i) CrashPoint("save.done");
      _exit(7);
    }
    int status = 0;
    waitpid(child, &status, WUNTRACED);
    child_ = child;
    return status;
  }

  std::string folder_;
  pid_t child_ = 0;
};

TEST_F(CrashPointDeathTest, APointThatIsNotSetDoesNothing) {
  Set("another", "kill");
  const int status = PassInChild(3);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
  CrashPoint("another");  // this process is not armed
  EXPECT_TRUE(IsSet("another"));
}

TEST_F(CrashPointDeathTest, KillsOnceOverAllProcesses) {
  Set("save.done", "kill");
  const int status = PassInChild(1);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  EXPECT_TRUE(IsSet(absl::StrCat("save.done.reached.", child_)));
  const int again = PassInChild(1);
  EXPECT_TRUE(WIFEXITED(again) && WEXITSTATUS(again) == 7) << again;
}

TEST_F(CrashPointDeathTest, CountsWithinOneProcess) {
  Set("save.done", "kill 3");
  EXPECT_TRUE(WIFEXITED(PassInChild(2)));
  EXPECT_TRUE(IsSet("save.done"));
  EXPECT_TRUE(WIFSIGNALED(PassInChild(3)));
}

TEST_F(CrashPointDeathTest, AFrozenProcessGoesOnFromThere) {
  Set("save.done", "freeze");
  int status = PassInChild(1);
  ASSERT_TRUE(WIFSTOPPED(status)) << status;
  kill(child_, SIGCONT);
  waitpid(child_, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
}

TEST_F(CrashPointDeathTest, AThreadThatHangsLeavesTheOthersAlone) {
  Set("save.done", "hang");
  const pid_t child = fork();
  if (child == 0) {
    ArmCrashPoints(folder_.c_str());
    std::thread([] {
      CrashPoint("save.done");
      _exit(1);
    }).detach();
    while (IsSet("save.done")) std::this_thread::yield();
    _exit(7);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
}

TEST_F(CrashPointDeathTest, AnUnknownActionIsNamed) {
  Set("save.done", "explode");
  EXPECT_DEATH(
      {
        ArmCrashPoints(folder_.c_str());
        CrashPoint("save.done");
      },
      "explode");
}

}  // namespace
}  // namespace vlm
