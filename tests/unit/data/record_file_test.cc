#include "data/record_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/hooked_file_system.h"
#include "data/tar/tar_writer.h"

namespace vlm::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RecordFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/records-" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder_).ok());
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_).ok());
  }
  std::string Write(const std::string& name, const std::string& contents) {
    EXPECT_TRUE(WriteFileDurably(PosixFileSystem(), folder_ + "/" + name, contents).ok());
    return folder_ + "/" + name;
  }
  std::string WriteTar(const std::string& name, const std::vector<std::pair<std::string, std::string>>& members) {
    const std::string path = folder_ + "/" + name;
    std::unique_ptr<WritableFile> file = *PosixFileSystem()->Create(path);
    TarWriter writer(file.get());
    for (const auto& [member, contents] : members) EXPECT_TRUE(writer.Append(member, contents).ok());
    EXPECT_TRUE(writer.Finish().ok());
    EXPECT_TRUE(file->Close().ok());
    return path;
  }
  absl::StatusOr<std::vector<RecordPlace>> List(const std::string& path) {
    file_ = *PosixFileSystem()->Open(path);
    return ListRecords(path, *file_);
  }
  std::string folder_;
  std::unique_ptr<ReadableFile> file_;
};

TEST_F(RecordFileTest, LinesAreFoundWithAndWithoutALastNewline) {
  const absl::StatusOr<std::vector<RecordPlace>> places = List(Write("a.jsonl", "{\"a\":1}\n\n{\"bb\":2}"));
  ASSERT_TRUE(places.ok()) << places.status();
  ASSERT_EQ(places->size(), 2u);
  EXPECT_EQ(*ReadSpan(*file_, (*places)[0].json), "{\"a\":1}");
  EXPECT_EQ(*ReadSpan(*file_, (*places)[1].json), "{\"bb\":2}");
  EXPECT_EQ((*places)[1].line, 3u);
}

TEST_F(RecordFileTest, LongFilesCrossReadBorders) {
  std::string contents;
  for (int i = 0; i < 300000; ++i) contents += "{\"n\":" + std::to_string(i) + "}\n";
  const absl::StatusOr<std::vector<RecordPlace>> places = List(Write("a.jsonl", contents));
  ASSERT_TRUE(places.ok());
  ASSERT_EQ(places->size(), 300000u);
  EXPECT_EQ(*ReadSpan(*file_, (*places)[123456].json), "{\"n\":123456}");
}

TEST_F(RecordFileTest, TarSamplesCarryTheirPictures) {
  const absl::StatusOr<std::vector<RecordPlace>> places =
      List(WriteTar("a.tar", {{"1.jpg", "picture"}, {"1.json", "{}"}, {"2.json", "{ }"}}));
  ASSERT_TRUE(places.ok()) << places.status();
  ASSERT_EQ(places->size(), 2u);
  ASSERT_EQ((*places)[0].images.size(), 1u);
  EXPECT_EQ(*ReadSpan(*file_, (*places)[0].images[0]), "picture");
  EXPECT_EQ(*ReadSpan(*file_, (*places)[1].json), "{ }");
  EXPECT_EQ((*places)[0].ImageMember(0), "1.jpg");
  EXPECT_EQ((*places)[1].JsonMember(), "2.json");
}

TEST_F(RecordFileTest, WhatCannotBeReadIsNamed) {
  EXPECT_THAT(std::string(List(WriteTar("a.tar", {{"1.jpg", "x"}})).status().message()), HasSubstr("no .json"));
  EXPECT_THAT(std::string(List(WriteTar("b.tar", {{"1.mp4", "x"}})).status().message()), HasSubstr("unknown ending"));
  EXPECT_THAT(std::string(List(Write("c.csv", "a,b")).status().message()), HasSubstr("c.csv"));
}

TEST_F(RecordFileTest, ALineAboveTheLimitIsNamedByItsNumber) {
  constexpr size_t kLongest = 4 << 20;
  const std::string longest(kLongest, 'x');
  const absl::StatusOr<std::vector<RecordPlace>> places = List(Write("a.jsonl", "{}\n" + longest + "\n{}\n"));
  ASSERT_TRUE(places.ok()) << places.status();
  EXPECT_EQ((*places)[1].json.bytes, kLongest);
  for (const std::string end : {"\n{}\n", ""}) {
    const absl::Status status = List(Write("b.jsonl", "{}\n" + longest + "x" + end)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("b.jsonl:2"));
  }
}

TEST_F(RecordFileTest, PicturesMayHaveAnyOfTheKnownEndings) {
  const absl::StatusOr<std::vector<RecordPlace>> places =
      List(WriteTar("a.tar", {{"1.JPEG", "a"}, {"1.left.jpg", "b"}, {"1.right.png", "c"}, {"1.json", "{}"}}));
  ASSERT_TRUE(places.ok()) << places.status();
  ASSERT_EQ((*places)[0].images.size(), 3u);
  EXPECT_EQ((*places)[0].ImageMember(1), "1.left.jpg");
}

absl::StatusCode CodeOf(const std::vector<std::string>& roots, const std::string& pattern) {
  return ResolvePattern(PosixFileSystem(), roots, pattern).status().code();
}

TEST_F(RecordFileTest, PatternsStayBelowTheRoot) {
  Write("b.jsonl", "{}");
  Write("a.jsonl", "{}");
  Write("a.txt", "");
  EXPECT_THAT(*ResolvePattern(PosixFileSystem(), {folder_}, "*.jsonl"),
              ElementsAre(folder_ + "/a.jsonl", folder_ + "/b.jsonl"));
  EXPECT_THAT(*ResolvePattern(PosixFileSystem(), {folder_ + "/"}, folder_ + "/a.txt"), ElementsAre(folder_ + "/a.txt"));
  EXPECT_EQ(ResolvePattern(PosixFileSystem(), {"/"}, folder_ + "/a.txt")->size(), 1u);
  EXPECT_EQ(CodeOf({folder_}, "*.tar"), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf({folder_}, folder_ + "/*.tar"), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf({folder_}, ""), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf({folder_}, "../*"), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(CodeOf({folder_}, "/etc/*"), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(CodeOf({folder_}, folder_ + "2/a.txt"), absl::StatusCode::kPermissionDenied);
}

// Left out in silence, its files would be missing from the data set.
TEST_F(RecordFileTest, AFolderThatCannotBeListedIsAnErrorAndAFileInItsPlaceIsPassedOver) {
  ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_ + "/one").ok());
  ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_ + "/two").ok());
  const std::string first = Write("one/a.jsonl", "{}"), second = Write("two/a.jsonl", "{}");
  Write("file", "");
  EXPECT_THAT(*ResolvePattern(PosixFileSystem(), {folder_}, "*/a.jsonl"), ElementsAre(first, second));
  std::filesystem::create_symlink(folder_ + "/file", folder_ + "/link_to_file");
  std::filesystem::create_symlink(folder_ + "/nothing", folder_ + "/link_to_nothing");
  EXPECT_THAT(*ResolvePattern(PosixFileSystem(), {folder_}, "*/a.jsonl"), ElementsAre(first, second));
  for (const bool nor_looked_at : {false, true}) {
    const auto failing = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string& path) {
      const bool fails = operation == FileOperation::kList || (nor_looked_at && operation == FileOperation::kStat);
      return fails && path.ends_with("/two") ? absl::InternalError("input/output error: " + path) : absl::OkStatus();
    });
    const absl::Status status = ResolvePattern(failing.get(), {folder_}, "*/a.jsonl").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("/two"));
  }
}

TEST_F(RecordFileTest, EveryRootCountsAndRelativePatternsStartAtTheFirst) {
  ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_ + "/one").ok());
  ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_ + "/two").ok());
  const std::string first = Write("one/a.jsonl", "{}");
  const std::string second = Write("two/b.jsonl", "{}");
  Write("c.jsonl", "{}");
  const std::vector<std::string> roots = {folder_ + "/one", folder_ + "/two", folder_ + "/missing"};
  EXPECT_THAT(*ResolvePattern(PosixFileSystem(), roots, "*.jsonl"), ElementsAre(first));
  EXPECT_THAT(*ResolvePattern(PosixFileSystem(), roots, folder_ + "/two/*.jsonl"), ElementsAre(second));
  EXPECT_EQ(CodeOf(roots, folder_ + "/c.jsonl"), absl::StatusCode::kPermissionDenied);
  const absl::Status elsewhere = ResolvePattern(PosixFileSystem(), roots, "b.jsonl").status();
  EXPECT_TRUE(absl::IsNotFound(elsewhere));
  EXPECT_THAT(std::string(elsewhere.message()), HasSubstr("write an absolute path"));
}

TEST_F(RecordFileTest, WithoutRootsTheRemedyIsNamed) {
  for (const std::string pattern : {"*.jsonl", "/etc/*"}) {
    const absl::Status none = ResolvePattern(PosixFileSystem(), {}, pattern).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(none)) << none;
    EXPECT_THAT(std::string(none.message()), HasSubstr("--data-root"));
  }
}

TEST_F(RecordFileTest, LinksMayNotLeaveTheRoots) {
  ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_ + "/root/real").ok());
  ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_ + "/outside").ok());
  Write("root/real/a.jsonl", "{}");
  Write("outside/secret.jsonl", "{}");
  const std::string root = folder_ + "/root";
  std::filesystem::create_symlink("real/a.jsonl", root + "/inside.jsonl");
  std::filesystem::create_symlink(folder_ + "/outside/secret.jsonl", root + "/file.jsonl");
  std::filesystem::create_symlink("../outside", root + "/folder");
  std::filesystem::create_symlink("nowhere", root + "/dangling.jsonl");
  std::filesystem::create_symlink("root", folder_ + "/alias");
  EXPECT_THAT(*ResolvePattern(PosixFileSystem(), {root}, "inside.jsonl"), ElementsAre(root + "/inside.jsonl"));
  EXPECT_THAT(*ResolvePattern(PosixFileSystem(), {folder_ + "/alias"}, "real/*"),
              ElementsAre(folder_ + "/alias/real/a.jsonl"))
      << "a root may be a link itself";
  const absl::Status left = ResolvePattern(PosixFileSystem(), {root}, "file.jsonl").status();
  EXPECT_TRUE(absl::IsPermissionDenied(left)) << left;
  EXPECT_THAT(std::string(left.message()), HasSubstr("/outside/secret.jsonl"));
  EXPECT_EQ(CodeOf({root}, "folder/*.jsonl"), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(CodeOf({root}, root + "/*/secret.jsonl"), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(CodeOf({root}, "dangling.jsonl"), absl::StatusCode::kNotFound);
  EXPECT_EQ(ResolvePattern(PosixFileSystem(), {root, folder_ + "/outside"}, "file.jsonl")->size(), 1u)
      << "the target lies below another root";
}

}  // namespace
}  // namespace vlm::data
