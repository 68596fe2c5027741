#include "checkpoint/format/durable_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/hooked_file_system.h"
#include "base/mutex.h"
#include "base/simulated_file_system.h"
#include "checkpoint/format/parallel_read.h"
#include "checkpoint/format/safetensors_folder.h"
#include "checkpoint/format/safetensors_reader.h"
#include "checkpoint/format/safetensors_writer.h"
#include "gmock/gmock.h"

namespace vlm::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Survival = SimulatedFileSystem::Survival;

std::span<const std::byte> SpanOf(std::string_view bytes) {
  return std::as_bytes(std::span(bytes.data(), bytes.size()));
}

// Not periodic in the chunk size, so that a chunk in another's place is found.
std::string Pattern(uint64_t count) {
  std::string bytes(count, '\0');
  for (uint64_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(Mix64(i / 8) >> (8 * (i % 8)));
  return bytes;
}

TEST(ChunkSums, RoundTripAndDigestDefinition) {
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, kChunkBytes, kChunkBytes + 1, 2 * kChunkBytes}) {
    const std::string bytes = Pattern(size);
    ChunkHasher hasher;
    for (size_t at = 0; at < bytes.size(); at += 1'000'003)
      hasher.Update(SpanOf(std::string_view(bytes).substr(at, 1'000'003)));
    const ChunkSums sums = hasher.Finish();
    EXPECT_EQ(sums.bytes, size);
    EXPECT_EQ(sums.chunks.size(), (size + kChunkBytes - 1) / kChunkBytes);
    std::string concatenated;
    for (size_t at = 0; at < bytes.size(); at += kChunkBytes) {
      const Digest chunk = Sha256Of(std::string_view(bytes).substr(at, kChunkBytes));
      concatenated.append(reinterpret_cast<const char*>(chunk.bytes.data()), chunk.bytes.size());
    }
    EXPECT_EQ(sums.FileDigest(), Sha256Of(concatenated));
    EXPECT_EQ(*ParseChunkSums(SerializeChunkSums(sums)), sums);
  }
}

TEST(ChunkSums, RefusesEveryDamagedText) {
  ChunkHasher hasher;
  hasher.Update(SpanOf("some bytes"));
  const std::string text = SerializeChunkSums(hasher.Finish());
  EXPECT_FALSE(ParseChunkSums("").ok());
  EXPECT_FALSE(ParseChunkSums(text + "\n").ok());
  for (size_t length = 0; length < text.size(); ++length) EXPECT_FALSE(ParseChunkSums(text.substr(0, length)).ok());
  int accepted = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    std::string damaged = text;
    damaged[at] ^= 1;
    accepted += ParseChunkSums(damaged).ok() ? 1 : 0;
  }
  // Only the size's last digit may change unseen here (10 and 11 bytes both have one chunk): the file's own size
  // is compared with it by every reader.
  EXPECT_LE(accepted, 2);
}

TEST(DurableFile, IsWholeAndHashed) {
  SimulatedFileSystem disk;
  const std::string bytes = Pattern(kChunkBytes + 100);
  const auto written = WriteDurableFile(&disk, "/data.json", bytes);
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->bytes, bytes.size());
  EXPECT_EQ(written->digest, ReadChunkSums(&disk, "/data.json")->FileDigest().Hex());
  disk.Crash(Survival::kNothing);
  EXPECT_EQ(*ReadFile(&disk, "/data.json", 1 << 30), bytes);
  EXPECT_THAT(*disk.List("/"), ElementsAre("data.json", "data.json.sum"));
}

TEST(DurableFile, IsNeverWrittenTwice) {
  SimulatedFileSystem disk;
  ASSERT_TRUE(WriteDurableFile(&disk, "/a", "1").ok());
  EXPECT_EQ(WriteDurableFile(&disk, "/a", "2").status().code(), absl::StatusCode::kAlreadyExists);
  const auto first = DurableFileWriter::Create(&disk, "/b", 0);
  EXPECT_EQ(DurableFileWriter::Create(&disk, "/b", 0).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(DurableFile, RemovesTemporariesWhenGivenUpOrFull) {
  SimulatedFileSystem disk;
  {
    ASSERT_TRUE((*DurableFileWriter::Create(&disk, "/a", 10))->Append("half").ok());
  }
  EXPECT_THAT(*disk.List("/"), ElementsAre());
  disk.SetCapacity(1000);
  EXPECT_EQ(DurableFileWriter::Create(&disk, "/b", 2000).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(*disk.List("/"), ElementsAre());
  // No reservation and full in the middle: the same, and nothing stays.
  {
    EXPECT_TRUE(absl::IsResourceExhausted((*DurableFileWriter::Create(&disk, "/c", 0))->Append(Pattern(2000))));
  }
  EXPECT_THAT(*disk.List("/"), ElementsAre());
  EXPECT_EQ(*disk.FreeBytes("/"), 1000u);
  // Full only for the sums: the file does not appear without them.
  EXPECT_TRUE(absl::IsResourceExhausted(WriteDurableFile(&disk, "/d", Pattern(990)).status()));
  EXPECT_THAT(*disk.List("/"), ElementsAre());
}

TEST(DurableFile, AFailedSyncIsNeverTakenForSuccess) {
  for (int failing = 0; failing < 3; ++failing) {
    SimulatedFileSystem disk;
    int syncs = 0;
    disk.SetHook([&](FileOperation operation, const std::string&) {
      const bool is_sync = operation == FileOperation::kSync || operation == FileOperation::kSyncDirectory;
      return is_sync && syncs++ == failing ? absl::InternalError("input/output error") : absl::OkStatus();
    });
    EXPECT_FALSE(WriteDurableFile(&disk, "/a", "contents").ok());
    EXPECT_FALSE(disk.Stat("/a").ok());
  }
}

TEST(DurableFile, WhicheverOperationFailsTheFileIsNotThereAndNothingElse) {
  int operations = 0;
  bool passed = false;
  for (int failing = 0; !passed; ++failing) {
    SimulatedFileSystem disk;
    operations = 0;
    disk.SetHook([&](FileOperation operation, const std::string&) {
      // To look whether a path is taken, and to remove what is left, are best efforts.
      if (operation == FileOperation::kStat || operation == FileOperation::kRemove) return absl::OkStatus();
      return operations++ == failing ? absl::InternalError("input/output error") : absl::OkStatus();
    });
    const absl::Status status = WriteDurableFile(&disk, "/a", "contents").status();
    passed = operations <= failing;
    disk.SetHook(nullptr);
    if (passed) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << failing;
    EXPECT_THAT(*disk.List("/"), ElementsAre()) << failing;
  }
  EXPECT_EQ(operations, 10) << "create, reserve, append, sync; all but reserve of the sums; two renames; the folder";
}

// Stops the machine after each operation in turn; whatever survives, a file is absent, or whole with its sums.
TEST(DurableFile, EveryCrashLeavesNothingOrAWholeFile) {
  const std::string bytes = Pattern(kChunkBytes + 5);
  for (const Survival survival : {Survival::kNothing, Survival::kRandom}) {
    bool finished = false;
    for (uint64_t operations = 0; !finished; ++operations) {
      SimulatedFileSystem disk(RngKey{operations});
      disk.StopAfter(operations);
      finished = WriteDurableFile(&disk, "/a", bytes).ok();
      disk.Crash(survival);
      if (finished || disk.Stat("/a").ok()) {
        EXPECT_EQ(*ReadFile(&disk, "/a", 1 << 30), bytes) << operations;
      }
      EXPECT_TRUE(!finished || ReadChunkSums(&disk, "/a").ok());
    }
  }
}

TEST(AddSums, OfAFileWrittenByOthers) {
  SimulatedFileSystem disk;
  const std::string bytes = Pattern(kChunkBytes * 2 + 1);
  ASSERT_TRUE(WriteFileDurably(&disk, "/shard.tar", bytes).ok());
  const auto written = AddSums(&disk, "/shard.tar");
  ASSERT_TRUE(written.ok()) << written.status();
  SimulatedFileSystem other;
  EXPECT_EQ(WriteDurableFile(&other, "/shard.tar", bytes)->digest, written->digest);
}

TEST(AddSums, OfAFileThatCannotBeReadOrIsNotThereAreNotWritten) {
  SimulatedFileSystem disk;
  EXPECT_TRUE(absl::IsNotFound(AddSums(&disk, "/shard.tar").status()));
  ASSERT_TRUE(WriteFileDurably(&disk, "/shard.tar", "contents").ok());
  for (const FileOperation failing : {FileOperation::kRead, FileOperation::kCreate}) {
    disk.SetHook([failing](FileOperation operation, const std::string&) {
      return operation == failing ? absl::InternalError("input/output error") : absl::OkStatus();
    });
    EXPECT_EQ(AddSums(&disk, "/shard.tar").status().code(), absl::StatusCode::kInternal);
    disk.SetHook(nullptr);
    EXPECT_THAT(*disk.List("/"), ElementsAre("shard.tar"));
  }
}

// Larger than the sums of any file: refused by its size.
TEST(ReadChunkSums, AHugeSumFileIsDamageAndIsNotRead) {
  const std::string path = testing::TempDir() + "/huge_sums";
  for (const std::string& old : {path, SumPath(path)}) std::filesystem::remove(old);
  ASSERT_TRUE(WriteDurableFile(PosixFileSystem(), path, "contents").ok());
  std::filesystem::resize_file(SumPath(path), kSumFileBytesMax + 1);  // a hole: it takes no room
  const absl::Status status = ReadChunkSums(PosixFileSystem(), path).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  for (const std::string& old : {path, SumPath(path)}) std::filesystem::remove(old);
}

class VerifyFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(disk_.MakeDirectory("/step").ok());
    Write("big", Pattern(3 * kChunkBytes + 17));
    Write("small", "contents");
    Write("empty", "");
  }
  void Write(const std::string& name, const std::string& bytes) {
    const auto written = WriteDurableFile(&disk_, "/step/" + name, bytes);
    ASSERT_TRUE(written.ok()) << written.status();
    claims_.push_back({name, written->bytes, written->digest});
  }
  std::string Damages(bool contents) {
    const auto damages = contents ? VerifyFiles(&disk_, "/step", claims_) : CheckFiles(&disk_, "/step", claims_);
    if (!damages.ok()) return damages.status().ToString();
    std::string text;
    for (const FileDamage& damage : *damages) text += damage.file + "#" + std::to_string(damage.chunk) + " ";
    return text;
  }
  SimulatedFileSystem disk_;
  std::vector<FileClaim> claims_;
};

TEST_F(VerifyFilesTest, FindsNothingInWholeFiles) {
  EXPECT_EQ(Damages(false), "");
  EXPECT_EQ(Damages(true), "");
}

TEST_F(VerifyFilesTest, NamesTheDamagedChunk) {
  ASSERT_TRUE(disk_.FlipBit("/step/big", 8 * (2 * kChunkBytes + 5)).ok());
  EXPECT_EQ(Damages(false), "");  // sizes and sums alone do not tell
  EXPECT_EQ(Damages(true), "big#2 ");
  ASSERT_TRUE(disk_.FlipBit("/step/big", 8 * (3 * kChunkBytes + 16) + 7).ok());
  ASSERT_TRUE(disk_.FlipBit("/step/small", 0).ok());
  EXPECT_EQ(Damages(true), "big#2 big#3 small#0 ");
}

TEST_F(VerifyFilesTest, NamesMissingFilesAndSums) {
  ASSERT_TRUE(disk_.Remove("/step/small").ok());
  ASSERT_TRUE(disk_.Remove("/step/big.sum").ok());
  EXPECT_EQ(Damages(false), "big.sum#-1 small#-1 ");
  EXPECT_EQ(Damages(true), "big.sum#-1 small#-1 ");
  ASSERT_TRUE(disk_.FlipBit("/step/big", 3).ok());
  EXPECT_EQ(Damages(true), "big.sum#-1 big#-1 small#-1 ");  // without sums the digest tells, but not where
}

TEST_F(VerifyFilesTest, NamesOtherContentsOfTheSameSize) {
  ASSERT_TRUE(disk_.Remove("/step/small").ok());
  ASSERT_TRUE(disk_.Remove("/step/small.sum").ok());
  ASSERT_TRUE(WriteDurableFile(&disk_, "/step/small", "CONTENTS").ok());
  EXPECT_EQ(Damages(false), "small.sum#-1 ");
}

TEST_F(VerifyFilesTest, NamesAnotherSizeAndUnreadableChunks) {
  claims_[1].bytes = 9;
  EXPECT_EQ(Damages(false), "small#-1 ");
  claims_[1].bytes = 8;
  disk_.SetHook([](FileOperation operation, const std::string& path) {
    return operation == FileOperation::kRead && path == "/step/small" ? absl::InternalError("input/output error")
                                                                      : absl::OkStatus();
  });
  EXPECT_EQ(Damages(true), "small#0 ");
}

TEST_F(VerifyFilesTest, ACommittedFileIsReadWholeOrItsDamageNamed) {
  const auto error = [&](const std::string& path) {
    return ReadCommittedFile(&disk_, path, 16 * kChunkBytes).status().ToString();
  };
  EXPECT_TRUE(ReadCommittedFile(&disk_, "/step/big", 16 * kChunkBytes).ok());
  EXPECT_THAT(ReadCommittedFile(&disk_, "/step/big", 10).status().ToString(), HasSubstr("OUT_OF_RANGE"));
  ASSERT_TRUE(disk_.FlipBit("/step/big", 8 * (kChunkBytes + 1)).ok());
  EXPECT_THAT(error("/step/big"),
              AllOf(HasSubstr("DATA_LOSS"), HasSubstr("chunk 1 (bytes 4194304 to 8388607) of /step/big")));
  ASSERT_TRUE(disk_.Remove("/step/small").ok());
  EXPECT_THAT(error("/step/small"), HasSubstr("DATA_LOSS: committed file is missing: /step/small"));
  ASSERT_TRUE(disk_.Remove("/step/small.sum").ok());
  EXPECT_THAT(error("/step/small"), HasSubstr("DATA_LOSS: sum file is missing: /step/small.sum"));
}

TEST_F(VerifyFilesTest, NamesAFolderInAFilesPlaceAndDamagedSums) {
  ASSERT_TRUE(disk_.Remove("/step/small").ok());
  ASSERT_TRUE(disk_.MakeDirectory("/step/small").ok());
  ASSERT_TRUE(disk_.FlipBit("/step/empty.sum", 0).ok());
  EXPECT_EQ(Damages(false), "small#-1 empty.sum#-1 ");
  EXPECT_EQ(Damages(true), "small#-1 empty.sum#-1 ");
}

TEST_F(VerifyFilesTest, ACommittedFileOfAnotherSizeIsNamedWithBoth) {
  ASSERT_TRUE(WriteFileDurably(&disk_, "/step/small", "longer contents").ok());
  EXPECT_THAT(ReadCommittedFile(&disk_, "/step/small", 100).status().ToString(),
              AllOf(HasSubstr("DATA_LOSS"), HasSubstr("has 15 bytes, its sums were made for 8: /step/small")));
  EXPECT_EQ(*ReadCommittedFile(&disk_, "/step/empty", 0), "");
}

// Whichever of them fails.
TEST_F(VerifyFilesTest, AnErrorOfLookingIsNoDamage) {
  const auto count_errors = [&](bool reads, const auto& look) {
    for (int failing = 0;; ++failing) {
      int operations = 0;
      disk_.SetHook([&](FileOperation operation, const std::string&) {
        const bool looks = operation == FileOperation::kStat || operation == FileOperation::kOpen ||
                           (reads && operation == FileOperation::kRead);
        return looks && operations++ == failing ? absl::ResourceExhaustedError("too many open files")
                                                : absl::OkStatus();
      });
      const std::string found = look();
      disk_.SetHook(nullptr);
      if (operations <= failing) return failing;
      EXPECT_THAT(found, HasSubstr("RESOURCE_EXHAUSTED")) << failing;
    }
  };
  EXPECT_EQ(count_errors(false, [&] { return Damages(false); }), 3 * 2) << "each file and its sums";
  EXPECT_EQ(count_errors(false, [&] { return Damages(true); }), 3 * 3);
  EXPECT_EQ(count_errors(true, [&] { return ReadCommittedFile(&disk_, "/step/small", 100).status().ToString(); }), 5)
      << "the sums opened and read, the file looked at, opened and read";
}

// Two files under one index; tensors larger than a chunk.
class FolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(disk_.MakeDirectory("/m").ok());
    const uint64_t large = kChunkBytes + 4096;
    WriteTensors("llm.safetensors", {{"embed", DType::kF32, {large / 4}}, {"norm", DType::kF32, {2}}});
    WriteTensors("vision.safetensors", {{"patch", DType::kBF16, {3}}});
    index_ = {{"embed", "llm.safetensors"}, {"norm", "llm.safetensors"}, {"patch", "vision.safetensors"}};
  }
  void WriteTensors(const std::string& name, std::vector<TensorSpec> tensors) {
    auto writer = SafetensorsWriter::Create(&disk_, "/m/" + name, std::move(tensors), {{"format", "pt"}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (const TensorEntry& tensor : (*writer)->tensors()) {
      contents_[tensor.name] = Pattern(tensor.bytes());
      ASSERT_TRUE((*writer)->Append(SpanOf(contents_[tensor.name])).ok());
    }
    ASSERT_TRUE((*writer)->Finish().ok());
  }
  void WriteIndex(const std::string& text) {
    ASSERT_TRUE(WriteDurableFile(&disk_, "/m/model.safetensors.index.json", text).ok());
  }
  std::string OpenError() { return std::string(SafetensorsFolder::Open(&disk_, "/m").status().message()); }

  SimulatedFileSystem disk_;
  std::map<std::string, std::string> index_, contents_;
};

TEST_F(FolderTest, ReadsRangesAcrossChunks) {
  WriteIndex(MakeSafetensorsIndex(index_, 1));
  const auto folder = SafetensorsFolder::Open(&disk_, "/m");
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ((*folder)->tensors().size(), 3u);
  std::string range(9000, '\0');
  const uint64_t offset = kChunkBytes - 5000;  // the file's header moves the chunk border inside
  ASSERT_TRUE((*folder)->Read("embed", offset, std::as_writable_bytes(std::span(range))).ok());
  EXPECT_EQ(range, contents_["embed"].substr(offset, range.size()));
  EXPECT_EQ((*folder)->Read("none", 0, {}).code(), absl::StatusCode::kNotFound);
  std::string one(1, '\0');
  EXPECT_EQ((*folder)->Read("patch", 6, std::as_writable_bytes(std::span(one))).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((*folder)->Read("patch", 7, {}).code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE((*folder)->Read("patch", 6, {}).ok());
}

TEST_F(FolderTest, VerifiesOnlyTheChunksItTouches) {
  WriteIndex(MakeSafetensorsIndex(index_, 1));
  const uint64_t size = disk_.Stat("/m/llm.safetensors")->bytes;
  ASSERT_GT(size, kChunkBytes);
  ASSERT_TRUE(disk_.FlipBit("/m/llm.safetensors", 8 * (size - 1)).ok());  // in chunk 1: the last tensor's end
  const auto folder = SafetensorsFolder::Open(&disk_, "/m");
  ASSERT_TRUE(folder.ok()) << folder.status();
  std::string range(100, '\0');
  EXPECT_TRUE((*folder)->Read("embed", 0, std::as_writable_bytes(std::span(range))).ok());
  const absl::Status damaged = (*folder)->Read("norm", 0, std::as_writable_bytes(std::span(range.data(), 8)));
  EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(damaged.message()),
              AllOf(HasSubstr("chunk 1 (bytes 4194304 to "), HasSubstr("of /m/llm.safetensors")));
}

TEST_F(FolderTest, ReadsManyTensorsAtOnceEachChunkOneTime) {
  WriteIndex(MakeSafetensorsIndex(index_, 1));
  Mutex mutex;
  std::map<std::string, int> reads_of;
  const auto counted = NewHookedFileSystem(&disk_, [&](FileOperation operation, const std::string& path) {
    MutexLock lock(&mutex);
    if (operation == FileOperation::kRead) ++reads_of[path];
    return absl::OkStatus();
  });
  const auto folder = SafetensorsFolder::Open(counted.get(), "/m");
  ASSERT_TRUE(folder.ok()) << folder.status();
  for (const int threads : {1, 2, 5}) {
    for (const bool direct : {false, true}) {
      reads_of.clear();
      std::map<std::string, std::string> parts;
      std::vector<TensorRead> reads;
      for (const auto& [name, location] : (*folder)->tensors()) {
        const uint64_t half = location.tensor->bytes() / 2;
        for (const auto& [part, offset, bytes] : {std::tuple{name + "/0", uint64_t{0}, half},
                                                  std::tuple{name + "/1", half, location.tensor->bytes() - half}}) {
          std::string& out = parts[part];
          out.resize(bytes);
          reads.push_back({location.file, location.tensor, offset, std::as_writable_bytes(std::span(out))});
        }
      }
      ASSERT_TRUE(ReadTensors(reads, {.threads = threads, .past_page_cache = direct}).ok());
      for (const auto& [name, contents] : contents_) EXPECT_TRUE(parts[name + "/0"] + parts[name + "/1"] == contents);
      EXPECT_EQ(reads_of["/m/llm.safetensors"], 2) << "its chunks";
      EXPECT_EQ(reads_of["/m/vision.safetensors"], 1);
    }
  }
}

TEST_F(FolderTest, ReadingManyAtOnceNamesTheFirstDamagedChunk) {
  WriteIndex(MakeSafetensorsIndex(index_, 1));
  const auto folder = SafetensorsFolder::Open(&disk_, "/m");
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto& embed = (*folder)->tensors().find("embed")->second;
  std::string out(embed.tensor->bytes(), '\0');
  const std::vector<TensorRead> whole = {{embed.file, embed.tensor, 0, std::as_writable_bytes(std::span(out))}};
  const std::vector<TensorRead> beyond = {{embed.file, embed.tensor, 1, std::as_writable_bytes(std::span(out))}};
  EXPECT_EQ(ReadTensors(beyond, {}).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReadTensors({{embed.file, embed.tensor, embed.tensor->bytes() + 1, {}}}, {}).code(),
            absl::StatusCode::kOutOfRange);
  // Chunk 0 was verified when the header was read; damage that comes later is in the next one.
  ASSERT_TRUE(disk_.FlipBit("/m/llm.safetensors", 8 * kChunkBytes + 1).ok());
  for (const int threads : {1, 2}) {
    const absl::Status damaged = ReadTensors(whole, {.threads = threads});
    EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(damaged.message()),
                AllOf(HasSubstr("chunk 1 (bytes 4194304 to "), HasSubstr("of /m/llm.safetensors")));
  }
}

TEST_F(FolderTest, ADamagedHeaderIsDataLossNotNonsense) {
  WriteIndex(MakeSafetensorsIndex(index_, 1));
  ASSERT_TRUE(disk_.FlipBit("/m/vision.safetensors", 8 * 20).ok());
  EXPECT_EQ(SafetensorsFolder::Open(&disk_, "/m").status().code(), absl::StatusCode::kDataLoss);
  const std::string digest(64, '0');
  EXPECT_EQ(SafetensorsFolder::Open(&disk_, "/m", {.digests = {{"llm.safetensors", digest}}}).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST_F(FolderTest, RefusesIndexesThatDoNotFitTheirFiles) {
  const auto with = [&](const std::string& name, const std::string& file) {
    auto index = index_;
    index[name] = file;
    return MakeSafetensorsIndex(index, 1);
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {with("patch", "../vision.safetensors"), "file of the same folder"},
      {with("patch", "/etc/passwd"), "file of the same folder"},
      {with("patch", ""), "file of the same folder"},
      {with("patch", ".hidden"), "file of the same folder"},
      {with("patch", std::string("a\0b", 3)), "file of the same folder"},
      {R"({"weight_map": {"a": 1}})", "file of the same folder"},
      {with("patch", "llm.safetensors"), "which is not in llm.safetensors"},
      {with("more", "llm.safetensors"), "which is not in"},
      {MakeSafetensorsIndex({{"embed", "llm.safetensors"}}, 1), "does not name tensor \"norm\""},
      {R"({"weight_map": {"a": "x", "a": "y"}})", "twice"},
      {R"({"weight_map": []})", "weight_map"},
      {"{", "no valid JSON"},
  };
  for (const auto& [text, why] : cases) {
    WriteIndex(text);
    EXPECT_THAT(OpenError(), HasSubstr(why)) << text;
    ASSERT_TRUE(disk_.Remove("/m/model.safetensors.index.json").ok());
    ASSERT_TRUE(disk_.Remove("/m/model.safetensors.index.json.sum").ok());
  }
}

TEST_F(FolderTest, AnIndexThatIsNotAsItWasCommittedIsDataLoss) {
  const std::string path = "/m/model.safetensors.index.json";
  WriteIndex(MakeSafetensorsIndex(index_, 1));
  const std::string digest(64, '0');
  EXPECT_EQ(
      SafetensorsFolder::Open(&disk_, "/m", {.digests = {{"model.safetensors.index.json", digest}}}).status().code(),
      absl::StatusCode::kDataLoss);
  const std::string true_digest = ReadChunkSums(&disk_, path)->FileDigest().Hex();
  EXPECT_TRUE(SafetensorsFolder::Open(&disk_, "/m", {.digests = {{"model.safetensors.index.json", true_digest}}}).ok());
  ASSERT_TRUE(disk_.FlipBit(path, 8).ok());
  EXPECT_THAT(SafetensorsFolder::Open(&disk_, "/m").status().ToString(),
              AllOf(HasSubstr("DATA_LOSS"), HasSubstr("differ from those committed: " + path)));
}

// Without its sums it is not read, and the folder is not taken for one without index.
TEST_F(FolderTest, AnIndexWithoutItsSumsIsAnError) {
  WriteIndex(MakeSafetensorsIndex(index_, 1));
  WriteTensors("model.safetensors", {{"w", DType::kI8, {4}}});
  ASSERT_TRUE(disk_.Remove("/m/model.safetensors.index.json.sum").ok());
  EXPECT_THAT(OpenError(), HasSubstr("sum file is missing: /m/model.safetensors.index.json.sum"));
}

TEST_F(FolderTest, IsReadWithoutSumsWhereNoneAreAskedFor) {
  WriteIndex(MakeSafetensorsIndex(index_, 1));
  for (const char* const name : {"llm.safetensors", "vision.safetensors", "model.safetensors.index.json"}) {
    ASSERT_TRUE(disk_.Remove(absl::StrCat("/m/", name, ".sum")).ok());
  }
  const auto folder = SafetensorsFolder::Open(&disk_, "/m", {.require_sums = false});
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto& embed = (*folder)->tensors().find("embed")->second;
  std::string out(embed.tensor->bytes(), '\0');
  ASSERT_TRUE(ReadTensors({{embed.file, embed.tensor, 0, std::as_writable_bytes(std::span(out))}}, {}).ok());
  EXPECT_TRUE(out == contents_["embed"]);
  EXPECT_EQ((*folder)->Find("none"), nullptr);
}

// Whichever read fails, of the index, of sums, headers or tensors.
TEST_F(FolderTest, AReadThatFailsIsToldAsItself) {
  WriteIndex(MakeSafetensorsIndex(index_, 1));
  int reads = 0, failing = 0;
  disk_.SetHook([&](FileOperation operation, const std::string& path) {
    // Files are opened side by side: the reads of one of them are in order.
    const bool counted = operation == FileOperation::kRead && path.find("vision") == std::string::npos;
    return counted && reads++ == failing ? absl::InternalError("input/output error") : absl::OkStatus();
  });
  const auto read_all = [&]() -> absl::Status {
    VLM_ASSIGN_OR_RETURN(const auto folder, SafetensorsFolder::Open(&disk_, "/m"));
    std::string range(9000, '\0');
    const std::span<std::byte> bytes = std::as_writable_bytes(std::span(range));
    VLM_RETURN_IF_ERROR(folder->Read("embed", 0, bytes));
    VLM_RETURN_IF_ERROR(folder->Read("embed", kChunkBytes - 5000, bytes));
    const auto& embed = folder->tensors().find("embed")->second;
    return ReadTensors({{embed.file, embed.tensor, 0, bytes}}, {.threads = 1});
  };
  for (bool passed = false; !passed; ++failing) {
    reads = 0;
    const absl::Status status = read_all();
    passed = reads <= failing;
    EXPECT_EQ(status.code(), passed ? absl::StatusCode::kOk : absl::StatusCode::kInternal) << failing << status;
  }
  EXPECT_GE(reads, 8) << "index and sums, a file's sums and header, three ranges in two chunks";
}

TEST_F(FolderTest, OpensASingleFileWithoutIndex) {
  EXPECT_THAT(OpenError(), HasSubstr("/m/model.safetensors"));
  WriteTensors("model.safetensors", {{"w", DType::kI8, {4}}});
  const auto folder = SafetensorsFolder::Open(&disk_, "/m");
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_NE((*folder)->Find("w"), nullptr);
}

TEST(SafetensorsWriter, RefusesTooManyAndTooFewBytes) {
  SimulatedFileSystem disk;
  auto writer = SafetensorsWriter::Create(&disk, "/a", {{"x", DType::kU8, {4}}, {"y", DType::kU8, {4}}}, {});
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ((*writer)->Append(SpanOf("123456789")).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE((*writer)->Append(SpanOf("12345")).ok());
  EXPECT_THAT(std::string((*writer)->Finish().status().message()), HasSubstr("\"y\", 5 of 8"));
}

TEST(SafetensorsReader, SumsOfAnotherSizeAreDataLoss) {
  SimulatedFileSystem disk;
  auto writer = SafetensorsWriter::Create(&disk, "/a", {{"x", DType::kU8, {8}}}, {});
  ASSERT_TRUE((*writer)->Append(SpanOf("12345678")).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  const std::string contents = *ReadFile(&disk, "/a", 1000);
  ASSERT_TRUE(WriteFileDurably(&disk, "/a", contents + "9").ok());
  EXPECT_THAT(
      SafetensorsReader::Open(&disk, "/a").status().ToString(),
      AllOf(HasSubstr("DATA_LOSS"), HasSubstr(absl::StrCat("its sums were made for ", contents.size(), ": /a"))));
}

TEST(SafetensorsWriter, TellsOfWhatCannotBePlannedAndOfAFullDisk) {
  SimulatedFileSystem disk;
  EXPECT_EQ(SafetensorsWriter::Create(&disk, "/a", {{"", DType::kU8, {1}}}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  int appends = 0, failing = 0;
  disk.SetHook([&](FileOperation operation, const std::string&) {
    return operation == FileOperation::kAppend && appends++ == failing ? absl::ResourceExhaustedError("no space left")
                                                                       : absl::OkStatus();
  });
  const auto write = [&]() -> absl::Status {
    VLM_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(&disk, "/b", {{"x", DType::kU8, {4}}}, {}));
    VLM_RETURN_IF_ERROR(writer->Append(SpanOf("1234")));
    return writer->Finish().status();
  };
  for (; failing < 3; ++failing) {  // the header, a tensor, the sums
    appends = 0;
    EXPECT_TRUE(absl::IsResourceExhausted(write())) << failing;
    EXPECT_THAT(*disk.List("/"), ElementsAre()) << failing;
  }
  appends = 0;
  EXPECT_TRUE(write().ok());
}

TEST(SafetensorsReader, AFileCutShortUnderneathIsAnErrorNotASignal) {
  SimulatedFileSystem disk;
  auto writer = SafetensorsWriter::Create(&disk, "/a", {{"x", DType::kU8, {uint64_t{kChunkBytes} * 2}}}, {});
  ASSERT_TRUE((*writer)->Append(SpanOf(Pattern(kChunkBytes * 2))).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  ASSERT_TRUE(disk.Remove("/a.sum").ok());
  EXPECT_EQ(SafetensorsReader::Open(&disk, "/a").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(SafetensorsReader::Open(&disk, "/a", {.require_sums = false}).ok());
}

}  // namespace
}  // namespace vlm::checkpoint
