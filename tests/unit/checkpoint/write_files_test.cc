#include "checkpoint/format/write_files.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
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
  const auto hooked = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
    if (operation != FileOperation::kSync) return absl::OkStatus();
    MutexLock lock(&mutex);
    syncing.insert(path);
    changed.NotifyAll();
    while (syncing.size() < 2) changed.Wait(&mutex);  // for ever, if one waits for the other: CTest ends it
    return absl::OkStatus();
  });
  std::vector<FileToWrite> files = Files(2);
  ASSERT_TRUE(WriteFiles(hooked.get(), folder_, &files, {}).ok());
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

// Two tensors of 8 bytes, produced in pieces of 4; `given` for each of them.
FileToWrite TensorFile(const std::string& name, int given) {
  FileToWrite file;
  file.name = name;
  file.tensors = {{"a", DType::kI32, {2}}, {"b", DType::kI32, {2}}};
  file.metadata = {{"format", "pt"}};
  file.produce_tensor = [given](const TensorEntry& tensor, const ByteSink& sink) -> absl::Status {
    for (int written = 0; written < given; written += 4) {
      const std::string piece(4, tensor.name[0]);
      VLM_RETURN_IF_ERROR(sink(std::as_bytes(std::span(piece))));
    }
    return absl::OkStatus();
  };
  return file;
}

TEST_F(WriteFilesTest, TensorsAreThoseOfTheirProducer) {
  std::vector<FileToWrite> files = {TensorFile("model.safetensors", 8)};
  const auto claims = WriteFiles(PosixFileSystem(), folder_, &files, {});
  ASSERT_TRUE(claims.ok()) << claims.status();
  EXPECT_TRUE(VerifyFiles(PosixFileSystem(), folder_, *claims).value().empty());
  const std::string contents = ReadFile(PosixFileSystem(), folder_ + "/model.safetensors", 1000).value();
  EXPECT_TRUE(contents.ends_with("aaaaaaaabbbbbbbb"));
  EXPECT_THAT(contents, HasSubstr(R"("__metadata__":{"format":"pt"})"));
}

TEST_F(WriteFilesTest, AProducerThatFailsOrGivesOtherThanItsBytesLeavesNoFile) {
  const auto error = [&](FileToWrite file) {
    std::vector<FileToWrite> files(1);
    files[0] = std::move(file);
    const absl::Status status = WriteFiles(PosixFileSystem(), folder_, &files, {}).status();
    EXPECT_TRUE(PosixFileSystem()->List(folder_).value().empty());
    return status.ToString();
  };
  EXPECT_THAT(error(TensorFile("model.safetensors", 4)), HasSubstr("producer of tensor \"a\" gave 4 bytes of 8"));
  EXPECT_THAT(error(TensorFile("model.safetensors", 20)), HasSubstr("more bytes appended than the tensors hold"));
  FileToWrite failing = TensorFile("model.safetensors", 8);
  failing.produce_tensor = [](const TensorEntry&, const ByteSink&) { return absl::UnavailableError("device lost"); };
  EXPECT_THAT(error(std::move(failing)), HasSubstr("device lost"));
  FileToWrite unnamed = TensorFile("model.safetensors", 8);
  unnamed.tensors[0].name = "";
  EXPECT_THAT(error(std::move(unnamed)), HasSubstr("a name must be"));
}

TEST_F(WriteFilesTest, AFolderThatIsThereIsUsedAndOneThatCannotBeMadeOrSyncedIsAnError) {
  for (const std::string name : {"deep/below/one", "deep/below/two"}) {
    std::vector<FileToWrite> files = Files(1);
    files[0].name = name;
    ASSERT_TRUE(WriteFiles(PosixFileSystem(), folder_, &files, {}).ok()) << name;
  }
  for (const FileOperation failing : {FileOperation::kMakeDirectory, FileOperation::kSyncDirectory}) {
    for (const std::string at : {"/new", "/new/below"}) {
      ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder_ + "/new").ok());
      const std::string path = failing == FileOperation::kSyncDirectory ? ParentPath(folder_ + at) : folder_ + at;
      const auto hooked = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& one) {
        return operation == failing && one == path ? absl::InternalError("input/output error") : absl::OkStatus();
      });
      std::vector<FileToWrite> files = Files(1);
      files[0].name = "new/below/file";
      EXPECT_EQ(WriteFiles(hooked.get(), folder_, &files, {}).status().code(), absl::StatusCode::kInternal) << at;
    }
  }
}

TEST_F(WriteFilesTest, APathThatIsTakenIsAnError) {
  std::vector<FileToWrite> first = Files(1);
  ASSERT_TRUE(WriteFiles(PosixFileSystem(), folder_, &first, {}).ok());
  for (const bool tensors : {false, true}) {
    std::vector<FileToWrite> files = Files(1);
    if (tensors) files[0] = TensorFile("file-0", 8);
    EXPECT_EQ(WriteFiles(PosixFileSystem(), folder_, &files, {}).status().code(), absl::StatusCode::kAlreadyExists);
  }
}

// Even to the same bytes: what it leads to is not the step's.
TEST_F(WriteFilesTest, ASymbolicLinkInAFilesPlaceIsDamage) {
  std::vector<FileToWrite> files = Files(1);
  const auto claims = WriteFiles(PosixFileSystem(), folder_, &files, {});
  ASSERT_TRUE(claims.ok()) << claims.status();
  std::filesystem::rename(folder_ + "/file-0", folder_ + "/elsewhere");
  std::filesystem::create_symlink("elsewhere", folder_ + "/file-0");
  const auto damages = VerifyFiles(PosixFileSystem(), folder_, *claims);
  ASSERT_TRUE(damages.ok()) << damages.status();
  ASSERT_EQ(damages->size(), 1u);
  EXPECT_THAT((*damages)[0].detail, HasSubstr("symbolic link"));
}

}  // namespace
}  // namespace vlm::checkpoint
