#include "data/record_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
}

TEST_F(RecordFileTest, WhatCannotBeReadIsNamed) {
  EXPECT_THAT(std::string(List(WriteTar("a.tar", {{"1.jpg", "x"}})).status().message()), HasSubstr("no .json"));
  EXPECT_THAT(std::string(List(WriteTar("b.tar", {{"1.mp4", "x"}})).status().message()), HasSubstr("unknown ending"));
  EXPECT_THAT(std::string(List(Write("c.csv", "a,b")).status().message()), HasSubstr("c.csv"));
}

TEST_F(RecordFileTest, PatternsStayBelowTheRoot) {
  Write("b.jsonl", "{}");
  Write("a.jsonl", "{}");
  Write("a.txt", "");
  EXPECT_THAT(*ResolvePattern(PosixFileSystem(), folder_, "*.jsonl"),
              ElementsAre(folder_ + "/a.jsonl", folder_ + "/b.jsonl"));
  EXPECT_EQ(ResolvePattern(PosixFileSystem(), folder_, folder_ + "/a.txt")->size(), 1u);
  EXPECT_EQ(ResolvePattern(PosixFileSystem(), folder_, "*.tar").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ResolvePattern(PosixFileSystem(), folder_, "../*").status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ResolvePattern(PosixFileSystem(), folder_, "/etc/*").status().code(), absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace vlm::data
