#include "data/indexer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>

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

}  // namespace
}  // namespace vlm::data
