#include "checkpoint/format/write_files.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/hooked_file_system.h"
#include "base/mutex.h"
#include "gmock/gmock.h"

namespace vlm::checkpoint {
namespace {

using ::testing::HasSubstr;

class WriteFilesTest : public testing::Test {
 protected:
  WriteFilesTest()
      : folder_(testing::TempDir() + "/write_files_" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    EXPECT_TRUE(RemoveTree(PosixFileSystem(), folder_).ok());
    EXPECT_TRUE(MakeDirectories(PosixFileSystem(), folder_).ok());
  }
  static std::vector<FileToWrite> Files(int count) {
    std::vector<FileToWrite> files(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) {
      files[i].name = absl::StrCat("file-", i);
      files[i].contents = absl::StrCat("contents of ", i);
    }
    return files;
  }
  const std::string folder_;
};

TEST_F(WriteFilesTest, ClaimsComeInOrderAndWhatIsWrittenIsGivenBack) {
  for (const int at_once : {1, 2, 5}) {
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder_).ok());
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_).ok());
    std::vector<FileToWrite> files = Files(9);
    files[4].name = "below/file-4";
    std::atomic<int> inside = 0, advanced = 0;
    const auto claims = WriteFiles(PosixFileSystem(), folder_, &files,
                                   {.at_once = at_once,
                                    .advance =
                                        [&] {
                                          EXPECT_EQ(++inside, 1) << "calls overlap";
                                          ++advanced;
                                          --inside;
                                        },
                                    .stopping = nullptr});
    ASSERT_TRUE(claims.ok()) << claims.status();
    ASSERT_EQ(claims->size(), 9u);
    for (int i = 0; i < 9; ++i) {
      const std::string name = absl::StrCat(i == 4 ? "below/" : "", "file-", i);
      const std::string contents = absl::StrCat("contents of ", i);
      EXPECT_EQ((*claims)[i].name, name);
      EXPECT_EQ((*claims)[i].bytes, contents.size());
      EXPECT_EQ(ReadFile(PosixFileSystem(), folder_ + "/" + name, 100).value(), contents);
      EXPECT_TRUE(files[i].contents.empty()) << "its memory is still held";
    }
    EXPECT_TRUE(VerifyFiles(PosixFileSystem(), folder_, *claims).value().empty());
    EXPECT_GE(advanced, 9);
  }
}

TEST_F(WriteFilesTest, OneIsWrittenWhileAnotherIsSynced) {
  Mutex mutex;
  CondVar changed;
  std::set<std::string> syncing;
  bool met = false;
  const auto hooked = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    if (operation != FileOperation::kSync) return absl::OkStatus();
    MutexLock lock(&mutex);
    syncing.insert(path);
    met = met || syncing.size() > 1;
    changed.NotifyAll();
    while (!met) {
      if (!changed.WaitFor(&mutex, absl::Seconds(30))) break;
    }
    return absl::OkStatus();
  });
  std::vector<FileToWrite> files = Files(2);
  ASSERT_TRUE(WriteFiles(hooked.get(), folder_, &files, {}).ok());
  EXPECT_TRUE(met) << "the second file waited for the first one";
}

TEST_F(WriteFilesTest, TheFirstErrorIsToldAndNothingIsBegunAfterIt) {
  std::atomic<int> created = 0;
  const auto hooked = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    if (operation == FileOperation::kCreate) ++created;
    const bool fails = operation == FileOperation::kAppend && path.find("file-1") != std::string::npos;
    return fails ? absl::ResourceExhaustedError("No space left on device: " + path) : absl::OkStatus();
  });
  for (const int at_once : {1, 2}) {
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder_).ok());
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_).ok());
    created = 0;
    std::vector<FileToWrite> files = Files(50);
    const auto claims = WriteFiles(hooked.get(), folder_, &files, {.at_once = at_once});
    EXPECT_TRUE(absl::IsResourceExhausted(claims.status())) << claims.status();
    EXPECT_THAT(std::string(claims.status().message()), HasSubstr("/file-1.tmp"));
    EXPECT_LE(created, 20) << "of files and their sums; file-10 fails too";
  }
}

TEST_F(WriteFilesTest, NoFileIsBegunOnceItIsToStop) {
  int asked = 0;
  std::vector<FileToWrite> files = Files(5);
  const auto claims = WriteFiles(PosixFileSystem(), folder_, &files,
                                 {.at_once = 1, .advance = nullptr, .stopping = [&] { return ++asked > 2; }});
  EXPECT_TRUE(absl::IsCancelled(claims.status())) << claims.status();
  EXPECT_EQ(PosixFileSystem()->List(folder_).value().size(), 4u) << "two files with their sums";
}

}  // namespace
}  // namespace vlm::checkpoint
