#include "data/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

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
  indexes[2].rejected = 1;
  indexes[2].quarantined.push_back({"text", "/d/c.tar", 7, "7.json", 512, false, "rejected", "no target"});
  indexes[0].pictures = 4;
  indexes[0].bad_pictures = 1;
  indexes[0].quarantined.push_back({"captions", "/d/b.tar", 2, "2.png", 1024, true, "placeholder", "broken"});
  Manifest manifest = MergeIndexes({"digest", "chatml", 24, 16, 128}, {"text", "captions"}, std::move(indexes));
  manifest.bad_pictures = {BadPicturePolicy::kPlaceholder, 0.25};
  return manifest;
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
  EXPECT_EQ(manifest.FindSource("text")->rejected, 1u);
  EXPECT_EQ(manifest.FindSource("captions")->rejected, 0u);
  EXPECT_EQ(manifest.FindSource("captions")->pictures, 4u);
  EXPECT_EQ(manifest.FindSource("captions")->bad_pictures, 1u);
  ASSERT_EQ(manifest.quarantined.size(), 2u);
  EXPECT_EQ(PlaceAndReason(manifest.quarantined[0]), "/d/c.tar: record 7, member 7.json at offset 512: no target");
}

Quarantined Rejected(const std::string& source, uint64_t record) {
  return {source, "/d/" + source + ".tar", record, "", 512, false, "rejected", "no target"};
}
Quarantined BadPicture(const std::string& source, uint64_t record) {
  return {source, "/d/" + source + ".tar", record, "1.png", 512, true, "drop", "broken"};
}

TEST(QuarantineListTest, IsBoundedAndRecordsHideNoPicture) {
  QuarantineList list(200);
  for (uint64_t record = 1; record <= 300; ++record) list.Add(Rejected("text", record));
  ASSERT_EQ(list.entries().size(), 200u);
  EXPECT_EQ(list.entries().back().record, 200u);
  for (uint64_t record = 301; record <= 1000; ++record) list.Add(BadPicture("text", record));
  ASSERT_EQ(list.entries().size(), 200u + QuarantineList::kPicturesKept);
  EXPECT_EQ(list.entries()[200].record, 301u);
  list.Add(Rejected("text", 1001));
  EXPECT_EQ(list.entries().size(), 200u + QuarantineList::kPicturesKept);
}

TEST(QuarantineListTest, HoldsPicturesAloneUpToItsSize) {
  QuarantineList list(200);
  for (uint64_t record = 1; record <= 300; ++record) list.Add(BadPicture("text", record));
  EXPECT_EQ(list.entries().size(), 200u);
}

TEST(QuarantineListTest, AMessageNamesTheFirstFiveAndCountsTheRest) {
  std::vector<Quarantined> list;
  for (uint64_t record = 1; record <= 6; ++record) list.push_back(Rejected("text", record));
  list.push_back(BadPicture("text", 7));
  std::string five;
  for (size_t i = 0; i < 5; ++i) five += (i == 0 ? "" : "; ") + PlaceAndReason(list[i]);
  EXPECT_EQ(FirstOf(list, /*pictures_only=*/false, 20), five + "; and 15 more");
  EXPECT_EQ(FirstOf(list, /*pictures_only=*/true, 1), PlaceAndReason(list[6]));
  EXPECT_EQ(FirstOf({}, /*pictures_only=*/false, 0), "");
}

TEST(QuarantineListTest, ALineOfJsonNamesAMemberOnlyWhereThereIsOne) {
  EXPECT_THAT(QuarantineLines({Rejected("text", 3)}), testing::Not(HasSubstr("member")));
  EXPECT_THAT(QuarantineLines({BadPicture("text", 3)}), HasSubstr(R"("member":"1.png")"));
}

// The first source alone would fill the list; the second one's only picture is named all the same.
TEST(ManifestTest, EverySourceHasItsPartOfTheQuarantineList) {
  std::vector<FileIndex> indexes;
  for (uint64_t ordinal = 0; ordinal <= Manifest::kQuarantinedMax / FileIndex::kQuarantinedMax; ++ordinal) {
    indexes.push_back(IndexOf("/d/text.tar", "text", ordinal, 1, 0));
    for (uint64_t i = 0; i < FileIndex::kQuarantinedMax; ++i) {
      indexes.back().quarantined.push_back(Rejected("text", i + 1));
    }
  }
  indexes.push_back(IndexOf("/d/captions.tar", "captions", indexes.size(), 1, 1));
  indexes.back().quarantined = {BadPicture("captions", 7)};
  const Manifest manifest = MergeIndexes({}, {"text", "captions"}, indexes);
  ASSERT_EQ(manifest.quarantined.size(), Manifest::kQuarantinedMax / 2 + 1);
  EXPECT_EQ(manifest.quarantined.back().source, "captions");
  EXPECT_EQ(manifest.quarantined.back().record, 7u);

  for (FileIndex& index : indexes) index.file.source = "text";
  indexes.back().quarantined[0].source = "text";
  const Manifest one = MergeIndexes({}, {"text"}, indexes);
  ASSERT_EQ(one.quarantined.size(), Manifest::kQuarantinedMax + 1);
  EXPECT_TRUE(one.quarantined.back().picture) << "rejected records stand before it";
}

TEST(ManifestTest, DoesNotDependOnWhoIndexedWhat) {
  std::vector<FileIndex> indexes = {IndexOf("/d/c.tar", "text", 0, 4, 0), IndexOf("/d/b.tar", "captions", 2, 3, 1),
                                    IndexOf("/d/a.tar", "captions", 1, 2, 1)};
  indexes[0].rejected = 1;
  indexes[0].quarantined.push_back({"text", "/d/c.tar", 7, "7.json", 512, false, "rejected", "no target"});
  indexes[1].pictures = 4;
  indexes[1].bad_pictures = 1;
  indexes[1].quarantined.push_back({"captions", "/d/b.tar", 2, "2.png", 1024, true, "placeholder", "broken"});
  Manifest shuffled = MergeIndexes({"digest", "chatml", 24, 16, 128}, {"text", "captions"},
                                   *DecodeFileIndexes(EncodeFileIndexes(indexes)));
  shuffled.bad_pictures = {BadPicturePolicy::kPlaceholder, 0.25};
  EXPECT_EQ(EncodeManifest(shuffled).json, EncodeManifest(ThreeFiles()).json);
  EXPECT_EQ(EncodeManifest(shuffled).quarantine, EncodeManifest(ThreeFiles()).quarantine);
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
  EXPECT_EQ(read->bad_pictures, manifest.bad_pictures);
}

TEST(ManifestTest, TheQuarantineListHasALineForEach) {
  EXPECT_EQ(EncodeManifest(ThreeFiles()).quarantine,
            R"({"source":"text","file":"/d/c.tar","record":7,"member":"7.json","offset":512,"what":"record",)"
            R"("action":"rejected","reason":"no target"})"
            "\n"
            R"({"source":"captions","file":"/d/b.tar","record":2,"member":"2.png","offset":1024,"what":"picture",)"
            R"("action":"placeholder","reason":"broken"})"
            "\n");
}

TEST(ManifestTest, AnotherVersionIsRefusedWithTheRemedy) {
  ManifestBytes old = EncodeManifest(ThreeFiles());
  const std::string now = "\"version\": 2";
  ASSERT_NE(old.json.find(now), std::string::npos);
  old.json.replace(old.json.find(now), now.size(), "\"version\": 1");
  const absl::Status status = ReadManifest(PosixFileSystem(), WriteFolder(old)).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("index the data again (version 1, this program reads version 2)"));
}

TEST(BadPictureRuleTest, TheLimitIsAShareAndFailAllowsNone) {
  const BadPictureRule drop = {BadPicturePolicy::kDrop, 0.25};
  EXPECT_FALSE(drop.TooMany(0, 0));
  EXPECT_FALSE(drop.TooMany(2, 8));
  EXPECT_TRUE(drop.TooMany(3, 8));
  EXPECT_FALSE((BadPictureRule{BadPicturePolicy::kFail, 1}.TooMany(0, 8)));
  EXPECT_TRUE((BadPictureRule{BadPicturePolicy::kFail, 1}.TooMany(1, 8)));
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
  bad.images.pop_back();
  EXPECT_THAT(message(bad), HasSubstr("images.bin is cut short"));
  bad = good;
  bad.json = "{}";
  EXPECT_THAT(message(bad), HasSubstr("manifest.json"));
  EXPECT_FALSE(DecodeFileIndexes("garbage").ok());

  const auto edited = [&](const std::string& pointer, const nlohmann::json& value) {
    nlohmann::json json = nlohmann::json::parse(good.json);
    json[nlohmann::json::json_pointer(pointer)] = value;
    ManifestBytes bytes = good;
    bytes.json = json.dump();
    return message(bytes);
  };
  EXPECT_THAT(edited("/format", "other"), HasSubstr("another format"));
  EXPECT_THAT(edited("/bad_pictures/policy", "ignore"), HasSubstr("unknown policy"));
  EXPECT_THAT(edited("/sources/1/first", 3), HasSubstr("not adjacent at captions"));
}

// A sample that no pack can hold would end the process where it is packed, without the name of the index.
TEST(ManifestTest, ASampleBeyondTheContextIsNamed) {
  for (const uint32_t tokens : {0u, 129u, ~0u}) {
    Manifest manifest = ThreeFiles();
    manifest.samples[3].tokens = tokens;
    const absl::Status status = ReadManifest(PosixFileSystem(), WriteFolder(EncodeManifest(manifest))).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << tokens;
    EXPECT_THAT(std::string(status.message()), HasSubstr("sample 3 has " + std::to_string(tokens) + " tokens"));
  }
  Manifest full = ThreeFiles();
  full.samples[3].tokens = 128;
  EXPECT_TRUE(ReadManifest(PosixFileSystem(), WriteFolder(EncodeManifest(full))).ok());
}

// Their sum, or all but the last, could come out right.
TEST(ManifestTest, NumbersOfSamplesBeyondTheTableAreRefused) {
  const auto message = [](const Manifest& manifest) {
    return std::string(ReadManifest(PosixFileSystem(), WriteFolder(EncodeManifest(manifest))).status().message());
  };
  Manifest wrapped = ThreeFiles();
  wrapped.sources[0].samples = ~uint64_t{0};
  wrapped.sources[1].first = ~uint64_t{0};
  wrapped.sources[1].samples = wrapped.samples.size() + 1;
  EXPECT_THAT(message(wrapped), HasSubstr("differ in length"));
  Manifest longer = ThreeFiles();
  longer.sources.push_back({"more", longer.samples.size(), 1});
  EXPECT_THAT(message(longer), HasSubstr("differ in length"));
}

TEST(ManifestTest, AMissingFileIsNamed) {
  for (const std::string name : {"manifest.json", "samples.bin", "images.bin"}) {
    const std::string folder = WriteFolder(EncodeManifest(ThreeFiles()));
    ASSERT_TRUE(PosixFileSystem()->Remove(folder + "/" + name).ok());
    const absl::Status status = ReadManifest(PosixFileSystem(), folder).status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

TEST(ManifestTest, AFileIndexWithATableCutShortIsNamed) {
  const std::string good = EncodeFileIndexes({IndexOf("/d/a.tar", "captions", 1, 2, 1)});
  for (const char* const table : {"samples", "images"}) {
    nlohmann::json json = nlohmann::json::from_cbor(good);
    json[0][table].get_binary().pop_back();
    std::string cut;
    nlohmann::json::to_cbor(json, cut);
    const absl::Status status = DecodeFileIndexes(cut).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << table;
    EXPECT_THAT(std::string(status.message()), HasSubstr("cut short: /d/a.tar"));
  }
}

TEST(ManifestTest, NumbersThatDoNotFitAreNamed) {
  const ManifestBytes good = EncodeManifest(ThreeFiles());
  const auto message = [&](const std::string& key, const nlohmann::json& number) {
    nlohmann::json json = nlohmann::json::parse(good.json);
    json["render"][key] = number;
    ManifestBytes bad = good;
    bad.json = json.dump();
    return std::string(ReadManifest(PosixFileSystem(), WriteFolder(bad)).status().message());
  };
  EXPECT_EQ(message("context", 127), "");
  EXPECT_THAT(message("context", 1e300), HasSubstr("not a whole number that fits: 1e+300"));
  EXPECT_THAT(message("image_size", 24.5), HasSubstr("not a whole number that fits: 24.5"));
  EXPECT_THAT(message("image_tokens", -16), HasSubstr("not a whole number that fits: -16"));
  EXPECT_THAT(message("context", uint64_t{1} << 31), HasSubstr("not a whole number that fits: 2147483648"));
}

}  // namespace
}  // namespace vlm::data
