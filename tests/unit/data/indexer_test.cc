#include "data/indexer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>

#include "base/hooked_file_system.h"
#include "data/image/image.h"
#include "data/tar/tar_writer.h"
#include "tests/unit/data/shapes_tokenizer.h"

namespace vlm::data {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kQuestion[] =
    R"({"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "which color?"}]},)"
    R"( {"role": "assistant", "content": "red"}]})";

class IndexerTest : public ::testing::Test {
 protected:
  // A tar with one question for each picture.
  FileIndex IndexPictures(const std::vector<std::string>& pictures, BadPicturePolicy policy = BadPicturePolicy::kDrop) {
    const std::string path =
        testing::TempDir() + "/indexer-" + testing::UnitTest::GetInstance()->current_test_info()->name() + ".tar";
    EXPECT_TRUE(RemoveTree(PosixFileSystem(), path).ok());
    const std::unique_ptr<WritableFile> file = *PosixFileSystem()->Create(path);
    TarWriter tar(file.get());
    for (size_t i = 0; i < pictures.size(); ++i) {
      const std::string stem = "s" + std::to_string(i);
      const char* const ending = pictures[i].starts_with("\xFF\xD8") ? ".jpg" : ".png";
      EXPECT_TRUE(tar.Append(stem + ending, pictures[i]).ok());
      EXPECT_TRUE(tar.Append(stem + ".json", kQuestion).ok());
    }
    EXPECT_TRUE(tar.Finish().ok());
    EXPECT_TRUE(file->Close().ok());
    absl::StatusOr<FileIndex> index =
        IndexFile(PosixFileSystem(), {path, "pictures", 3}, {{"digest", "chatml", 24, 16, 128}, policy}, *template_,
                  [this] { ++advanced_; });
    VLM_CHECK(index.ok(), std::string(index.status().message()));
    return *std::move(index);
  }

  std::string WriteLines(const std::string& lines) {
    const std::string path =
        testing::TempDir() + "/indexer-" + testing::UnitTest::GetInstance()->current_test_info()->name() + ".jsonl";
    EXPECT_TRUE(WriteFileDurably(PosixFileSystem(), path, lines).ok());
    return path;
  }
  absl::StatusOr<FileIndex> Index(FileSystem* files, const std::string& path, const RenderSettings& render) {
    return IndexFile(files, {path, "source", 3}, {render, BadPicturePolicy::kPlaceholder}, *template_, [] {});
  }

  static std::string Png(int side) {
    return *EncodePng({side, side, std::vector<uint8_t>(static_cast<size_t>(3 * side * side), 90)});
  }

  int advanced_ = 0;
  std::unique_ptr<Tokenizer> tokenizer_ = TrainSmallTokenizer();
  std::unique_ptr<ChatTemplate> template_ = *NewChatTemplate("chatml", tokenizer_.get());
};

// What training could not decode must not be learned of there, at every attempt anew.
TEST_F(IndexerTest, APictureThatTrainingCouldNotDecodeIsRejectedWithItsPlace) {
  const std::string good = Png(8);
  std::string cut = Png(64);
  cut.resize(cut.size() - 20);  // its header is sound
  std::string huge = *EncodeJpeg({8, 8, std::vector<uint8_t>(3 * 8 * 8, 90)}, 90);
  const size_t frame = huge.find("\xFF\xC0");
  ASSERT_NE(frame, std::string::npos);
  huge.replace(frame + 5, 4, "\x27\x10\x27\x10");  // 10,000 x 10,000 pixels, as its header has it
  const DecodeLimits limits;
  const FileIndex index = IndexPictures({good, cut, huge, std::string(limits.bytes_max + 1, 'x'), good});
  EXPECT_EQ(index.ordinal, 3u);
  EXPECT_EQ(index.samples.size(), 2u);
  EXPECT_EQ(index.rejected, 3u);
  EXPECT_EQ(index.bad_pictures, 3u);
  EXPECT_EQ(index.pictures, 5u);
  EXPECT_EQ(index.images.size(), 2u);
  ASSERT_EQ(index.quarantined.size(), 3u);
  EXPECT_EQ(index.quarantined[0].record, 2u);
  EXPECT_EQ(index.quarantined[0].member, "s1.png");
  EXPECT_TRUE(index.quarantined[0].picture);
  EXPECT_EQ(index.quarantined[0].action, "drop");
  EXPECT_EQ(index.quarantined[1].record, 3u);
  EXPECT_EQ(index.quarantined[1].member, "s2.jpg");
  EXPECT_THAT(index.quarantined[1].reason, AllOf(HasSubstr("more pixels than allowed"), HasSubstr("10000 x 10000")));
  EXPECT_EQ(index.quarantined[2].record, 4u);
  EXPECT_THAT(index.quarantined[2].reason, HasSubstr("larger than allowed"));
}

TEST_F(IndexerTest, APlaceholderKeepsTheSampleAndMarksItsPicture) {
  for (const BadPicturePolicy policy : {BadPicturePolicy::kPlaceholder, BadPicturePolicy::kFail}) {
    const FileIndex index = IndexPictures({Png(8), "no picture", Png(9)}, policy);
    EXPECT_EQ(index.samples.size(), 3u);
    EXPECT_EQ(index.rejected, 0u);
    EXPECT_EQ(index.bad_pictures, 1u);
    ASSERT_EQ(index.images.size(), 3u);
    EXPECT_EQ(index.images[0].flags, 0u);
    EXPECT_EQ(index.images[1].flags, kBadPictureFlag);
    ASSERT_EQ(index.quarantined.size(), 1u);
    EXPECT_EQ(index.quarantined[0].action, BadPicturePolicyName(policy));
    EXPECT_EQ(index.quarantined[0].offset, index.images[1].offset);
  }
}

TEST_F(IndexerTest, EveryRecordIsProgress) {
  IndexPictures({Png(8), "no picture", Png(9)});
  EXPECT_EQ(advanced_, 3 + 1);  // and the one block of the digest
}

// Each with its reason; what else is in the file stays.
TEST_F(IndexerTest, ARecordThatIsNoSampleIsRejectedWithItsPlace) {
  const std::string answer = R"({"messages": [{"role": "user", "content": "which color?"},)"
                             R"( {"role": "assistant", "content": "red"}]})";
  const std::string path =
      WriteLines(answer + "\n{\n" + R"({"messages": [{"role": "user", "content": "which?"}]})" + "\n" + answer + "\n");
  const absl::StatusOr<FileIndex> index = Index(PosixFileSystem(), path, {"digest", "chatml", 24, 16, 128});
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->samples.size(), 2u);
  EXPECT_EQ(index->rejected, 2u);
  ASSERT_EQ(index->quarantined.size(), 2u);
  EXPECT_EQ(index->quarantined[0].record, 2u);
  EXPECT_EQ(index->quarantined[0].action, "rejected");
  EXPECT_THAT(index->quarantined[0].reason, HasSubstr("not a JSON object"));
  EXPECT_EQ(index->quarantined[1].record, 3u);
  EXPECT_THAT(index->quarantined[1].reason, HasSubstr("no assistant turn"));

  const absl::StatusOr<FileIndex> cut = Index(PosixFileSystem(), path, {"digest", "chatml", 24, 16, 4});
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_TRUE(cut->samples.empty());
  EXPECT_THAT(cut->quarantined.at(0).reason, AllOf(HasSubstr("no target is left"), HasSubstr("the context of 4")));
}

TEST_F(IndexerTest, AMemberLargerThanARecordMayBeIsRejectedUnread) {
  const std::string path = testing::TempDir() + "/indexer-large.tar";
  ASSERT_TRUE(RemoveTree(PosixFileSystem(), path).ok());
  const std::unique_ptr<WritableFile> file = *PosixFileSystem()->Create(path);
  TarWriter tar(file.get());
  ASSERT_TRUE(tar.Append("a.json", std::string((4 << 20) + 1, ' ')).ok());
  ASSERT_TRUE(tar.Append("b.json", R"({"text": "the red circle"})").ok());
  ASSERT_TRUE(tar.Finish().ok());
  ASSERT_TRUE(file->Close().ok());
  const absl::StatusOr<FileIndex> index = Index(PosixFileSystem(), path, {"digest", "chatml", 24, 16, 128});
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->samples.size(), 1u);
  ASSERT_EQ(index->quarantined.size(), 1u);
  EXPECT_EQ(index->quarantined[0].member, "a.json");
  EXPECT_THAT(index->quarantined[0].reason, HasSubstr("larger than 4 MiB"));
}

TEST_F(IndexerTest, AnIndexWithoutPictureSettingsTakesNoPictures) {
  IndexPictures({Png(8)});
  const absl::StatusOr<FileIndex> index =
      Index(PosixFileSystem(), testing::TempDir() + "/indexer-AnIndexWithoutPictureSettingsTakesNoPictures.tar",
            {"digest", "chatml", 0, 0, 128});
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_TRUE(index->samples.empty());
  EXPECT_THAT(index->quarantined.at(0).reason, HasSubstr("no image settings"));
}

// Whichever read fails: a record or a picture that cannot be read is not one that is bad.
TEST_F(IndexerTest, AFileThatCannotBeReadRejectsNothing) {
  IndexPictures({Png(8), Png(9)});
  const std::string path = testing::TempDir() + "/indexer-AFileThatCannotBeReadRejectsNothing.tar";
  int reads = 0;
  bool passed = false;
  for (int failing = 0; !passed; ++failing) {
    reads = 0;
    const auto files = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string&) {
      const bool looked = operation == FileOperation::kRead || operation == FileOperation::kOpen;
      return looked && reads++ == failing ? absl::InternalError("input/output error") : absl::OkStatus();
    });
    const absl::StatusOr<FileIndex> index = Index(files.get(), path, {"digest", "chatml", 24, 16, 128});
    passed = reads <= failing;
    EXPECT_EQ(index.status().code(), passed ? absl::StatusCode::kOk : absl::StatusCode::kInternal) << failing;
    if (passed) {
      EXPECT_EQ(index->samples.size(), 2u);
    }
  }
  EXPECT_GE(reads, 1 + 1 + 4) << "the file, its headers and digest, two records and two pictures";
}

TEST_F(IndexerTest, EveryTextIsGivenAndARecordWithoutIsNamed) {
  const std::string lines = R"({"text": "a caption"})"
                            "\n"
                            R"({"messages": [{"role": "user", "content": "which color?"},)"
                            R"( {"role": "assistant", "content": [{"type": "text", "text": "red"}]}]})"
                            "\n";
  std::vector<std::string> texts;
  const auto collect = [&](std::string_view text) { texts.emplace_back(text); };
  ASSERT_TRUE(ForEachText(PosixFileSystem(), WriteLines(lines), collect).ok());
  EXPECT_THAT(texts, testing::ElementsAre("a caption", "user", "which color?", "assistant", "red"));
  IndexPictures({Png(8)});
  texts.clear();
  ASSERT_TRUE(ForEachText(PosixFileSystem(),
                          testing::TempDir() + "/indexer-EveryTextIsGivenAndARecordWithoutIsNamed.tar", collect)
                  .ok());
  EXPECT_THAT(texts, testing::ElementsAre("user", "which color?", "assistant", "red"));

  const absl::Status bad = ForEachText(PosixFileSystem(), WriteLines(lines + "{\n"), collect);
  EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(bad.message()), HasSubstr(".jsonl:3: "));
  EXPECT_TRUE(absl::IsNotFound(ForEachText(PosixFileSystem(), testing::TempDir() + "/nothing.jsonl", collect)));
  const std::string path = WriteLines(lines);
  for (int failing = 0; failing < 3; ++failing) {  // the lines looked for, the first record, the second
    int reads = 0;
    const auto files = NewHookedFileSystem(PosixFileSystem(), [&](FileOperation operation, const std::string&) {
      return operation == FileOperation::kRead && reads++ == failing ? absl::InternalError("input/output error")
                                                                     : absl::OkStatus();
    });
    EXPECT_EQ(ForEachText(files.get(), path, collect).code(), absl::StatusCode::kInternal) << failing;
  }
}

}  // namespace
}  // namespace vlm::data
