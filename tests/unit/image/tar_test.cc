// Tar archives against Python's tarfile, and every kind of damage.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "data/tar/tar_header.h"
#include "data/tar/tar_reader.h"
#include "data/tar/tar_writer.h"
#include "tests/unit/image/oracle.h"

namespace vlm::data {
namespace {

using ::testing::HasSubstr;

using Files = std::vector<std::pair<std::string, std::string>>;

std::string ArchiveOf(const Files& files) {
  MemoryFile file;
  TarWriter writer(&file);
  for (const auto& [name, contents] : files) EXPECT_TRUE(writer.Append(name, contents).ok()) << name;
  EXPECT_TRUE(writer.Finish().ok());
  EXPECT_EQ(writer.bytes_written(), file.size());
  return file.contents();
}

// The archive with one header changed by `change`, its checksum made right again.
template <typename Change>
std::string WithHeader(std::string archive, size_t offset, Change change) {
  TarBlock block;
  std::memcpy(block.data(), archive.data() + offset, block.size());
  change(&block);
  SetTarNumber(&block, {kTarChecksum.offset, 7}, TarChecksumOf(block));
  std::memcpy(archive.data() + offset, block.data(), block.size());
  return archive;
}

void AsPax(TarBlock* block) { SetTarText(block, kTarType, "x"); }

absl::Status IndexError(const std::string& archive, const TarLimits& limits = {}) {
  return IndexTar(MemoryFile(archive), "shard.tar", limits).status();
}

void ExpectError(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard.tar"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("offset "));
}

TEST(TarTest, PythonReadsWhatIsWritten) {
  const std::string folder = EmptyFolder("tar_written");
  const Files files = {{"a.json", "{}"},
                       {"empty.txt", ""},
                       {"sub/b.jpg", std::string(512, 'x')},
                       {"sub/b.txt", std::string(513, 'y')},
                       {std::string(100, 'n'), "name field full"},
                       {std::string(155, 'p') + "/" + std::string(100, 'q'), "both fields full"}};
  nlohmann::ordered_json want;
  for (const auto& [name, contents] : files) want[name] = absl::BytesToHexString(contents);
  WriteContents(folder + "/files.tar", ArchiveOf(files));
  WriteContents(folder + "/files.json", want.dump());
  EXPECT_TRUE(RunOracle("tar_oracle.py", "written", folder));
}

TEST(TarTest, ReadsPaxAndGnuArchivesOfPython) {
  const std::string folder = EmptyFolder("tar_read");
  ASSERT_TRUE(RunOracle("tar_oracle.py", "read", folder));
  const auto want = Cases(folder).get<std::map<std::string, std::string>>();
  ASSERT_EQ(want.size(), 8);
  for (const std::string name : {"pax.tar", "gnu.tar"}) {
    const auto file = PosixFileSystem()->Open(folder + "/" + name);
    ASSERT_TRUE(file.ok());
    const auto members = IndexTar(**file, name);
    ASSERT_TRUE(members.ok()) << members.status();
    std::map<std::string, std::string> got;
    for (const TarMember& member : *members) {
      got[member.name] = absl::BytesToHexString(*ReadTarMember(**file, name, member));
    }
    EXPECT_EQ(got, want) << name;
  }
}

TEST(TarTest, EqualFilesGiveEqualArchives) {
  const Files files = {{"a.json", "{}"}, {"b.json", "[]"}};
  EXPECT_EQ(ArchiveOf(files), ArchiveOf(files));
  EXPECT_EQ(ArchiveOf(files).size(), 6 * kTarBlock);
}

TEST(TarTest, WriterRefusesNamesThatDoNotFitOrEscape) {
  MemoryFile file;
  TarWriter writer(&file);
  for (const std::string& name :
       {std::string(), std::string("/etc/passwd"), std::string("a/../b"), std::string("a//b"), std::string("a\nb"),
        std::string(101, 'x'), std::string(156, 'x') + "/y", "x/" + std::string(101, 'y')}) {
    EXPECT_EQ(writer.Append(name, "contents").code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(file.size(), 0);
  EXPECT_TRUE(writer.Finish().ok());
  EXPECT_EQ(writer.Append("late.txt", "x").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(writer.Finish().code(), absl::StatusCode::kFailedPrecondition);
}

// Cut anywhere, an archive is an error: no prefix may pass as a smaller data set.
TEST(TarTest, EveryCutIsFound) {
  const std::string archive = ArchiveOf({{"a.txt", std::string(600, 'a')}, {"b.txt", "b"}});
  for (size_t size = 0; size < archive.size(); size += size % kTarBlock < 2 ? 1 : 85) {
    ExpectError(IndexError(archive.substr(0, size)), absl::StatusCode::kDataLoss, "cut short");
  }
  EXPECT_TRUE(IndexError(archive).ok());
  EXPECT_TRUE(IndexError(archive + std::string(8192, '\0')).ok());
}

TEST(TarTest, DamageIsNamedWithFileAndOffset) {
  const std::string archive = ArchiveOf({{"a.txt", "a"}, {"b.txt", "b"}});
  std::string flipped = archive;
  flipped[1024] ^= 1;
  ExpectError(IndexError(flipped), absl::StatusCode::kDataLoss, "wrong checksum: shard.tar, offset 1024");
  ExpectError(IndexError(archive + archive), absl::StatusCode::kDataLoss, "data after its end mark");
  ExpectError(IndexError(archive, {.member_bytes_max = 0}), absl::StatusCode::kResourceExhausted, "a.txt, 1 bytes");
  ExpectError(IndexError(archive, {.members_max = 1}), absl::StatusCode::kResourceExhausted, "more than 1 members");
  const auto size = [](TarBlock* block) { SetTarText(block, kTarSize, "12x"); };
  ExpectError(IndexError(WithHeader(archive, 0, size)), absl::StatusCode::kDataLoss, "broken size");
  const auto huge = [](TarBlock* block) { SetTarNumber(block, kTarSize, uint64_t{1} << 32); };
  ExpectError(IndexError(WithHeader(archive, 1024, huge)), absl::StatusCode::kDataLoss,
              "cut short inside a member; copy it again or write it anew, member 2, b.txt, has ");
  const auto base256 = [](TarBlock* block) { SetTarText(block, kTarSize, "\x80\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"); };
  EXPECT_FALSE(IndexError(WithHeader(archive, 0, base256)).ok());
}

TEST(TarTest, DangerousMembersAreRefused) {
  const std::string archive = ArchiveOf({{"abcdefgh", "a"}});
  for (const std::string_view name : {"/bcdefgh", "a/../fgh", "../defgh", "a\\cdefgh", "ab/./fgh", "ab\tdefgh"}) {
    const auto rename = [&](TarBlock* block) { SetTarText(block, kTarName, name); };
    ExpectError(IndexError(WithHeader(archive, 0, rename)), absl::StatusCode::kInvalidArgument, "bad member");
  }
  for (const std::string_view type : {"1", "2", "3", "4", "6", "S", "?"}) {
    const auto retype = [&](TarBlock* block) { SetTarText(block, kTarType, type); };
    ExpectError(IndexError(WithHeader(archive, 0, retype)), absl::StatusCode::kInvalidArgument, "link, device");
  }
}

TEST(TarTest, BrokenPaxRecordsAreRefused) {
  const std::pair<std::string_view, std::string_view> records[] = {
      {"path=a\n", "record without length"},
      {" path=a\n", "record without length"},
      {"12345678 path=a\n", "record without length"},
      {"x path=a\n", "broken length"},
      {"1! path=a\n", "broken length"},
      {"2 path=a\n", "wrong length"},
      {"99 path=a\n", "wrong length"},
      {"9 path=a.", "wrong length"},
      {"8 patha\n", "without '='"},
      {"12 size=1z2\n", "size that is not a number"},
      {"12 size=1!2\n", "size that is not a number"},
      {"29 size=99999999999999999999\n", "size that is not a number"},
      {"22 GNU.sparse.major=1\n", "sparse file"},
  };
  for (const auto& [record, why] : records) {
    const std::string archive = ArchiveOf({{"pax", std::string(record)}, {"a.txt", "a"}});
    ExpectError(IndexError(WithHeader(archive, 0, AsPax)), absl::StatusCode::kInvalidArgument, std::string(why));
  }
  const std::string archive = ArchiveOf({{"pax", std::string((1 << 20) + 1, ' ')}, {"a.txt", "a"}});
  ExpectError(IndexError(WithHeader(archive, 0, AsPax)), absl::StatusCode::kResourceExhausted, "above 1 MiB");
}

TEST(TarTest, ContiguousFilesAreFilesAndRecordsForOtherThingsArePassedOver) {
  const std::string archive = ArchiveOf({{"record", "10 path=b\n"}, {"a.txt", "abc"}});
  for (const std::string_view record : {"g", "K"}) {  // of the whole archive; a link's long target
    for (const std::string_view type : {"7", "\0", "0"}) {
      std::string changed = WithHeader(archive, 0, [&](TarBlock* block) { SetTarText(block, kTarType, record); });
      changed = WithHeader(changed, 2 * kTarBlock,
                           [&](TarBlock* block) { (*block)[kTarType.offset] = std::byte(type.data()[0]); });
      const auto members = IndexTar(MemoryFile(changed), "shard.tar");
      ASSERT_TRUE(members.ok()) << members.status();
      ASSERT_EQ(members->size(), 1u);
      EXPECT_EQ((*members)[0].name, "a.txt");
    }
  }
}

// As a writer has it whose number does not fit the header.
TEST(TarTest, ASizeInAPaxRecordWinsOverTheHeaders) {
  std::string archive = WithHeader(ArchiveOf({{"pax", "10 size=3\n"}, {"a.txt", "abc"}}), 0, AsPax);
  archive = WithHeader(archive, 2 * kTarBlock, [](TarBlock* block) { SetTarNumber(block, kTarSize, 0); });
  const MemoryFile file(archive);
  const auto members = IndexTar(file, "shard.tar");
  ASSERT_TRUE(members.ok()) << members.status();
  ASSERT_EQ(members->size(), 1u);
  EXPECT_EQ(*ReadTarMember(file, "shard.tar", (*members)[0]), "abc");
}

// A file whose operation number `failing` of its kind fails.
class FailingFile final : public MemoryFile {
 public:
  FailingFile(std::string contents, int failing) : MemoryFile(std::move(contents)), failing_(failing) {}
  absl::Status Append(std::span<const std::byte> bytes) override {
    return operations_++ == failing_ ? absl::ResourceExhaustedError("no space left") : MemoryFile::Append(bytes);
  }
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    return operations_++ == failing_ ? absl::InternalError("input/output error") : MemoryFile::ReadAt(offset, out);
  }
  bool failed() const { return operations_ > failing_; }

 private:
  const int failing_;
  mutable int operations_ = 0;
};

// Whichever read fails: a broken disk is no broken archive.
TEST(TarTest, AReadThatFailsIsToldAsItself) {
  const std::string archive = WithHeader(ArchiveOf({{"pax", "10 path=b\n"}, {"a.txt", "abc"}}), 0, AsPax);
  int failing = 0;
  for (bool passed = false; !passed; ++failing) {
    const FailingFile file(archive, failing);
    absl::Status status;
    if (const auto members = IndexTar(file, "shard.tar"); members.ok()) {
      status = ReadTarMember(file, "shard.tar", (*members)[0]).status();
    } else {
      status = members.status();
    }
    passed = !file.failed();
    EXPECT_EQ(status.code(), passed ? absl::StatusCode::kOk : absl::StatusCode::kInternal) << failing;
  }
  EXPECT_EQ(failing, 7) << "three headers, a record, what follows the end mark, a member; and once without error";
}

TEST(TarTest, AWriterTellsOfAFullDisk) {
  int failing = 0;
  for (bool passed = false; !passed; ++failing) {
    FailingFile file("", failing);
    TarWriter writer(&file);
    absl::Status status = writer.Append("a.txt", "abc");
    if (status.ok()) status = writer.Finish();
    passed = !file.failed();
    EXPECT_EQ(status.code(), passed ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted) << failing;
  }
  EXPECT_EQ(failing, 6) << "header, contents, padding and the end mark's two blocks; and once without error";
}

TEST(TarSamplesTest, PartsWithOneStemAreOneSample) {
  const std::string archive = ArchiveOf(
      {{"s/1.jpg", "picture"}, {"s/1.json", "{}"}, {"s/2.json", "[]"}, {"t/2.seg.PNG", "x"}, {"t/2.cls", "7"}});
  const MemoryFile file(archive);
  const auto samples = IndexSamples(file, "shard.tar");
  ASSERT_TRUE(samples.ok()) << samples.status();
  ASSERT_EQ(samples->size(), 3);
  EXPECT_EQ((*samples)[0].key, "s/1");
  ASSERT_EQ((*samples)[0].parts.size(), 2);
  EXPECT_EQ(*ReadSamplePart(file, "shard.tar", *(*samples)[0].Find("jpg")), "picture");
  EXPECT_EQ((*samples)[1].key, "s/2");
  EXPECT_EQ((*samples)[1].Find("jpg"), nullptr);
  EXPECT_EQ((*samples)[2].key, "t/2");
  EXPECT_EQ(*ReadSamplePart(file, "shard.tar", *(*samples)[2].Find("seg.png")), "x");
}

TEST(TarSamplesTest, AmbiguousShardsAreRefused) {
  const auto error = [](const Files& files) {
    return IndexSamples(MemoryFile(ArchiveOf(files)), "shard.tar").status();
  };
  ExpectError(error({{"1.jpg", ""}, {"2.jpg", ""}, {"1.json", ""}}), absl::StatusCode::kInvalidArgument, "comes back");
  ExpectError(error({{"1.jpg", ""}, {"1.JPG", ""}}), absl::StatusCode::kInvalidArgument, "twice");
  ExpectError(error({{"README", ""}}), absl::StatusCode::kInvalidArgument, "key.extension");
  ExpectError(error({{"a/.hidden", ""}}), absl::StatusCode::kInvalidArgument, "key.extension");
  ExpectError(error({{"a.", ""}}), absl::StatusCode::kInvalidArgument, "key.extension");
}

TEST(TarSamplesTest, AShardThatShrankIsNamed) {
  const std::string archive = ArchiveOf({{"1.txt", std::string(2000, 'x')}});
  const auto members = IndexTar(MemoryFile(archive), "shard.tar");
  ASSERT_TRUE(members.ok());
  ExpectError(ReadTarMember(MemoryFile(archive.substr(0, 1500)), "shard.tar", (*members)[0]).status(),
              absl::StatusCode::kDataLoss, "shorter than its index");
}

}  // namespace
}  // namespace vlm::data
