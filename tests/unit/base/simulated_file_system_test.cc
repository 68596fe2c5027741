// What the simulated disk loses, and what it must not; the conformance suite covers the rest.
#include "base/simulated_file_system.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"

namespace vlm {
namespace {

using ::testing::ElementsAre;
using Survival = SimulatedFileSystem::Survival;

std::span<const std::byte> SpanOf(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

absl::Status Write(FileSystem* files, const std::string& path, std::string_view text, bool sync) {
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files->Create(path));
  VLM_RETURN_IF_ERROR(file->Append(SpanOf(text)));
  return sync ? file->Sync() : absl::OkStatus();
}

TEST(SimulatedFileSystem, ANameNeedsItsFolderSynced) {
  SimulatedFileSystem disk;
  ASSERT_TRUE(Write(&disk, "/a", "bytes", /*sync=*/true).ok());
  disk.Crash(Survival::kNothing);
  EXPECT_THAT(*disk.List("/"), ElementsAre());
  ASSERT_TRUE(Write(&disk, "/a", "bytes", true).ok());
  ASSERT_TRUE(disk.SyncDirectory("/").ok());
  disk.Crash(Survival::kNothing);
  EXPECT_EQ(*ReadFile(&disk, "/a", 100), "bytes");
}

TEST(SimulatedFileSystem, BytesNeedTheirFileSynced) {
  SimulatedFileSystem disk;
  ASSERT_TRUE(Write(&disk, "/a", "bytes", /*sync=*/false).ok());
  ASSERT_TRUE(disk.SyncDirectory("/").ok());
  disk.Crash(Survival::kNothing);
  EXPECT_EQ(*ReadFile(&disk, "/a", 100), "");  // the empty file of every naive rename
}

TEST(SimulatedFileSystem, ANewFolderNeedsItsParentSynced) {
  SimulatedFileSystem disk;
  ASSERT_TRUE(disk.MakeDirectory("/d").ok());
  ASSERT_TRUE(Write(&disk, "/d/a", "bytes", true).ok());
  ASSERT_TRUE(disk.SyncDirectory("/d").ok());
  disk.Crash(Survival::kNothing);
  EXPECT_FALSE(disk.Stat("/d").ok());
}

TEST(SimulatedFileSystem, ARenameSurvivesWholeOrNotAtAll) {
  int renamed = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    SimulatedFileSystem disk(RngKey{seed});
    ASSERT_TRUE(Write(&disk, "/old", "old", true).ok());
    ASSERT_TRUE(Write(&disk, "/new", "new", true).ok());
    ASSERT_TRUE(disk.SyncDirectory("/").ok());
    ASSERT_TRUE(disk.Rename("/new", "/old").ok());
    disk.Crash(Survival::kRandom);
    const std::string text = *ReadFile(&disk, "/old", 100);
    EXPECT_EQ(text == "new", !disk.Stat("/new").ok());
    renamed += text == "new" ? 1 : 0;
  }
  EXPECT_GT(renamed, 5);
  EXPECT_LT(renamed, 45);
}

TEST(SimulatedFileSystem, UnsyncedBytesSurviveAsAPrefixOrZeros) {
  std::set<std::string> outcomes;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SimulatedFileSystem disk(RngKey{seed});
    const auto file = disk.Create("/a");
    ASSERT_TRUE((*file)->Append(SpanOf("safe")).ok());
    ASSERT_TRUE((*file)->Sync().ok());
    ASSERT_TRUE(disk.SyncDirectory("/").ok());
    ASSERT_TRUE((*file)->Append(SpanOf("lost")).ok());
    disk.Crash(Survival::kRandom);
    const std::string text = *ReadFile(&disk, "/a", 100);
    EXPECT_TRUE(text.starts_with("safe"));
    const std::string tail =
        text.substr(4, text.find('\0') == std::string::npos ? std::string::npos : text.find('\0') - 4);
    EXPECT_TRUE(std::string("lost").starts_with(tail));
    outcomes.insert(text);
  }
  EXPECT_GT(outcomes.size(), 8u);
}

TEST(SimulatedFileSystem, AFailedSyncLosesTheBytesForGood) {
  SimulatedFileSystem disk;
  bool fail = true;
  disk.SetHook([&](FileOperation operation, const std::string&) {
    return fail && operation == FileOperation::kSync ? absl::InternalError("EIO") : absl::OkStatus();
  });
  const auto file = disk.Create("/a");
  ASSERT_TRUE((*file)->Append(SpanOf("bytes")).ok());
  EXPECT_FALSE((*file)->Sync().ok());
  fail = false;
  EXPECT_TRUE((*file)->Sync().ok());  // the lie of the kernel
  ASSERT_TRUE(disk.SyncDirectory("/").ok());
  disk.Crash(Survival::kNothing);
  EXPECT_EQ(*ReadFile(&disk, "/a", 100), "");
}

TEST(SimulatedFileSystem, AWriterFromBeforeTheCrashIsRefused) {
  SimulatedFileSystem disk;
  const auto file = disk.Create("/a");
  disk.Crash(Survival::kNothing);
  EXPECT_EQ((*file)->Append(SpanOf("zombie")).code(), absl::StatusCode::kAborted);
}

TEST(SimulatedFileSystem, AFullDiskTakesWhatFits) {
  SimulatedFileSystem disk;
  disk.SetCapacity(8);
  const auto file = disk.Create("/a");
  EXPECT_EQ((*file)->Reserve(9).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE((*file)->Reserve(6).ok());
  EXPECT_EQ(*disk.FreeBytes("/"), 2u);
  EXPECT_EQ((*file)->Append(SpanOf("0123456789")).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(*ReadFile(&disk, "/a", 100), "01234567");
  ASSERT_TRUE(disk.Remove("/a").ok());
  EXPECT_EQ(*disk.FreeBytes("/"), 8u);
}

TEST(SimulatedFileSystem, StopsAfterTheGivenOperations) {
  SimulatedFileSystem disk;
  disk.StopAfter(2);
  EXPECT_TRUE(disk.MakeDirectory("/a").ok());
  EXPECT_TRUE(disk.MakeDirectory("/b").ok());
  EXPECT_EQ(disk.MakeDirectory("/c").code(), absl::StatusCode::kAborted);
  EXPECT_EQ(disk.operations(), 2u);
  disk.Crash(Survival::kNothing);
  EXPECT_TRUE(disk.MakeDirectory("/c").ok());
}

TEST(SimulatedFileSystem, FlipsOneBit) {
  SimulatedFileSystem disk;
  ASSERT_TRUE(Write(&disk, "/a", "A", true).ok());
  ASSERT_TRUE(disk.FlipBit("/a", 1).ok());
  EXPECT_EQ(*ReadFile(&disk, "/a", 1), "C");
  EXPECT_EQ(disk.FlipBit("/a", 8).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(disk.FlipBit("/b", 0).code(), absl::StatusCode::kNotFound);
}

TEST(WriteFileDurably, EveryCrashLeavesTheOldOrTheNewContents) {
  for (const Survival survival : {Survival::kNothing, Survival::kRandom}) {
    bool finished = false;
    for (uint64_t operations = 0; !finished; ++operations) {
      SimulatedFileSystem disk(RngKey{operations});
      ASSERT_TRUE(WriteFileDurably(&disk, "/a", "old").ok());
      disk.StopAfter(operations);
      finished = WriteFileDurably(&disk, "/a", "new").ok();
      disk.Crash(survival);
      const std::string text = *ReadFile(&disk, "/a", 100);
      EXPECT_TRUE(text == "new" || (!finished && text == "old")) << text;
    }
  }
}

TEST(PosixFileSystem, LinksAreDescribedAndNeverFollowedByRemoval) {
  const std::string folder = absl::StrCat(::testing::TempDir(), "posix_links");
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder + "/kept");
  ASSERT_TRUE(WriteFileDurably(PosixFileSystem(), folder + "/kept/file", "precious").ok());
  std::filesystem::create_directories(folder + "/gone");
  std::filesystem::create_directory_symlink(folder + "/kept", folder + "/gone/link");
  std::filesystem::create_symlink(folder + "/nowhere", folder + "/gone/dangling");
  EXPECT_TRUE(PosixFileSystem()->Stat(folder + "/gone/link")->is_symlink);
  EXPECT_TRUE(PosixFileSystem()->Stat(folder + "/gone/link")->is_directory);
  EXPECT_TRUE(PosixFileSystem()->Stat(folder + "/gone/dangling")->is_symlink);
  EXPECT_EQ(*PosixFileSystem()->Canonical(folder + "/gone/link/file"),
            std::filesystem::canonical(folder + "/kept/file").string());
  EXPECT_TRUE(RemoveTree(PosixFileSystem(), folder + "/gone").ok());
  EXPECT_FALSE(std::filesystem::exists(folder + "/gone"));
  EXPECT_EQ(*ReadFile(PosixFileSystem(), folder + "/kept/file", 100), "precious");
}

TEST(PosixFileSystem, CreateNeverOpensWhatExists) {
  const absl::StatusOr<FileInfo> device = PosixFileSystem()->Stat("/dev/full");
  if (!device.ok()) GTEST_SKIP() << "this machine has no /dev/full";
  const auto file = PosixFileSystem()->Create("/dev/full");
  EXPECT_EQ(file.status().code(), absl::StatusCode::kAlreadyExists);  // never opens what exists
}

TEST(SimulatedFileSystem, APowerLossKeepsTheFirstOfWhatWasNotSynced) {
  SimulatedFileSystem disk;
  ASSERT_TRUE(Write(&disk, "/old", "old", true).ok());
  ASSERT_TRUE(disk.SyncDirectory("/").ok());
  const auto file = disk.Create("/new");
  ASSERT_TRUE(file.ok() && (*file)->Append(SpanOf("one")).ok() && (*file)->Append(SpanOf("two")).ok());
  ASSERT_TRUE(disk.Link("/old", "/link").ok());
  ASSERT_TRUE(disk.Rename("/new", "/old").ok());
  ASSERT_EQ(disk.unsynced_operations(), 5u);  // the name, twice bytes, the link, the rename
  const auto left = [&](uint64_t kept) {
    const std::unique_ptr<SimulatedFileSystem> after = disk.AfterPowerLoss(kept);
    std::string text;
    const std::vector<std::string> names = after->List("/").value_or(std::vector<std::string>());
    for (const std::string& name : names)
      absl::StrAppend(&text, name, "=", *ReadFile(after.get(), "/" + name, 100), " ");
    return text;
  };
  EXPECT_EQ(left(0), "old=old ");
  EXPECT_EQ(left(1), "new= old=old ");
  EXPECT_EQ(left(2), "new=one old=old ");
  EXPECT_EQ(left(3), "new=onetwo old=old ");
  EXPECT_EQ(left(4), "link=old new=onetwo old=old ");
  EXPECT_EQ(left(5), "link=old old=onetwo ");
  EXPECT_EQ(left(9), left(5));
  ASSERT_TRUE((*file)->Sync().ok());
  EXPECT_EQ(disk.unsynced_operations(), 3u);
  EXPECT_EQ(left(1), "new=onetwo old=old ");
  ASSERT_TRUE(disk.SyncDirectory("/").ok());
  EXPECT_EQ(disk.unsynced_operations(), 0u);
  EXPECT_EQ(*ReadFile(&disk, "/old", 100), "onetwo");  // the machine itself went on
}

}  // namespace
}  // namespace vlm
