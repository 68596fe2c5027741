#include "data/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vlm::data {
namespace {

using ::testing::HasSubstr;

FileIndex IndexOf(const std::string& path, const std::string& source, uint64_t ordinal, uint32_t samples,
                  uint32_t images_each) {
  FileIndex index;
  index.ordinal = ordinal;
  index.file = {path, 1000, std::string(64, 'a'), source};
  for (uint32_t i = 0; i < samples; ++i) {
    index.samples.push_back({i * 10, 10, 0, 5 + i, 2, i * images_each, images_each});
    for (uint32_t j = 0; j < images_each; ++j) index.images.push_back({i * 100 + j, 50, 0});
  }
  return index;
}

Manifest ThreeFiles() {
  std::vector<FileIndex> indexes = {IndexOf("/d/b.tar", "captions", 2, 3, 1), IndexOf("/d/a.tar", "captions", 1, 2, 1),
                                    IndexOf("/d/c.tar", "text", 0, 4, 0)};
  indexes[2].rejected_count = 1;
  indexes[2].rejected.push_back({"/d/c.tar", 7, "no target"});
  return MergeIndexes({"digest", "chatml", 24, 16, 128}, {"text", "captions"}, std::move(indexes));
}

std::string WriteFolder(const ManifestBytes& bytes) {
  const std::string folder =
      testing::TempDir() + "/manifest-" + testing::UnitTest::GetInstance()->current_test_info()->name();
  EXPECT_TRUE(RemoveTree(PosixFileSystem(), folder).ok());
  EXPECT_TRUE(MakeDirectories(PosixFileSystem(), folder).ok());
  EXPECT_TRUE(WriteFileDurably(PosixFileSystem(), folder + "/manifest.json", bytes.json).ok());
  EXPECT_TRUE(WriteFileDurably(PosixFileSystem(), folder + "/samples.bin", bytes.samples).ok());
  EXPECT_TRUE(WriteFileDurably(PosixFileSystem(), folder + "/images.bin", bytes.images).ok());
  return folder;
}

TEST(ManifestTest, SourcesAreAdjacentAndFilesSorted) {
  const Manifest manifest = ThreeFiles();
  ASSERT_EQ(manifest.sources.size(), 2u);
  EXPECT_EQ(manifest.FindSource("text")->samples, 4u);
  EXPECT_EQ(manifest.FindSource("captions")->first, 4u);
  EXPECT_EQ(manifest.FindSource("captions")->samples, 5u);
  EXPECT_EQ(manifest.FindSource("nothing"), nullptr);
  EXPECT_EQ(manifest.files[1].path, "/d/a.tar");
  EXPECT_EQ(manifest.samples[6].file, 2u);
  EXPECT_EQ(manifest.samples[6].first_image, 2u);
  EXPECT_EQ(manifest.rejected_count, 1u);
}

TEST(ManifestTest, DoesNotDependOnWhoIndexedWhat) {
  std::vector<FileIndex> indexes = {IndexOf("/d/c.tar", "text", 0, 4, 0), IndexOf("/d/b.tar", "captions", 2, 3, 1),
                                    IndexOf("/d/a.tar", "captions", 1, 2, 1)};
  indexes[0].rejected_count = 1;
  indexes[0].rejected.push_back({"/d/c.tar", 7, "no target"});
  const std::string shuffled = EncodeManifest(MergeIndexes({"digest", "chatml", 24, 16, 128}, {"text", "captions"},
                                                           *DecodeFileIndexes(EncodeFileIndexes(indexes))))
                                   .json;
  EXPECT_EQ(shuffled, EncodeManifest(ThreeFiles()).json);
}

// A generate stage that was restarted has its shards in two folders, by the fence of the attempt that wrote them.
TEST(ManifestTest, DoesNotDependOnTheAttemptThatWroteAFile) {
  const auto counts_of = [](const std::vector<std::string>& paths) {
    std::vector<FileIndex> indexes;
    for (const uint32_t shard : {0, 2, 4, 1, 3}) {  // two index shards
      indexes.push_back(IndexOf(paths[shard], "captions", shard, shard + 1, 1));
    }
    const Manifest manifest =
        MergeIndexes({"digest", "chatml", 24, 16, 128}, {"captions"}, *DecodeFileIndexes(EncodeFileIndexes(indexes)));
    return EncodeManifest(manifest).samples;
  };
  EXPECT_EQ(counts_of({"/g/f00000002/shard-00000.l000009.tar", "/g/f00000001/shard-00001.l000002.tar",
                       "/g/f00000002/shard-00002.l000007.tar", "/g/f00000001/shard-00003.l000003.tar",
                       "/g/f00000002/shard-00004.l000008.tar"}),
            counts_of({"/g/f00000001/shard-00000.l000001.tar", "/g/f00000001/shard-00001.l000002.tar",
                       "/g/f00000001/shard-00002.l000003.tar", "/g/f00000001/shard-00003.l000004.tar",
                       "/g/f00000001/shard-00004.l000005.tar"}));
}

TEST(ManifestTest, ComesBackFromDiskAsItWas) {
  const Manifest manifest = ThreeFiles();
  const absl::StatusOr<Manifest> read = ReadManifest(PosixFileSystem(), WriteFolder(EncodeManifest(manifest)));
  ASSERT_TRUE(read.ok()) << read.status();
  const ManifestBytes again = EncodeManifest(*read);
  EXPECT_EQ(again.json, EncodeManifest(manifest).json);
  EXPECT_EQ(again.samples, EncodeManifest(manifest).samples);
  EXPECT_EQ(again.images, EncodeManifest(manifest).images);
}

TEST(ManifestTest, DamageIsNamed) {
  const ManifestBytes good = EncodeManifest(ThreeFiles());
  auto message = [](const ManifestBytes& bytes) {
    return std::string(ReadManifest(PosixFileSystem(), WriteFolder(bytes)).status().message());
  };
  ManifestBytes bad = good;
  bad.samples.pop_back();
  EXPECT_THAT(message(bad), HasSubstr("samples.bin is cut short"));
  bad = good;
  bad.samples.resize(bad.samples.size() - sizeof(SampleRecord));
  EXPECT_THAT(message(bad), HasSubstr("differ in length"));
  bad = good;
  bad.images.resize(0);
  EXPECT_THAT(message(bad), HasSubstr("outside its tables"));
  bad = good;
  bad.json = "{}";
  EXPECT_THAT(message(bad), HasSubstr("manifest.json"));
  EXPECT_FALSE(DecodeFileIndexes("garbage").ok());
}

}  // namespace
}  // namespace vlm::data
