// What every FileSystem must do: the machine's, the simulated one, and one behind a hook.
#include "base/file_system.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/direct_io.h"
#include "base/hooked_file_system.h"
#include "base/simulated_file_system.h"
#include "gmock/gmock.h"

namespace vlm {
namespace {

using ::testing::ElementsAre;

std::span<const std::byte> SpanOf(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

struct Subject {
  std::string folder;  // empty, ours
  FileSystem* files;
  std::unique_ptr<FileSystem> owned;
};

Subject Posix() {
  const std::string folder = absl::StrCat(::testing::TempDir(), "file_system_conformance");
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return {std::filesystem::canonical(folder), PosixFileSystem(), nullptr};
}

Subject Simulated() {
  auto files = std::make_unique<SimulatedFileSystem>();
  FileSystem* const raw = files.get();
  EXPECT_TRUE(raw->MakeDirectory("/work").ok());
  return {"/work", raw, std::move(files)};
}

Subject Hooked() {
  Subject posix = Posix();
  posix.owned = NewHookedFileSystem(posix.files, [](FileOperation, const std::string&) { return absl::OkStatus(); });
  posix.files = posix.owned.get();
  return posix;
}

class FileSystemConformance : public ::testing::TestWithParam<Subject (*)()> {
 protected:
  void SetUp() override { subject_ = GetParam()(); }
  std::string Path(const std::string& name) const { return subject_.folder + "/" + name; }
  FileSystem* files() { return subject_.files; }
  void Write(const std::string& name, std::string_view text) {
    const auto file = files()->Create(Path(name));
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE((*file)->Append(SpanOf(text)).ok());
    ASSERT_TRUE((*file)->Sync().ok());
    ASSERT_TRUE((*file)->Close().ok());
  }
  std::string Read(const std::string& name) {
    const auto text = ReadFile(files(), Path(name), 1 << 20);
    return text.ok() ? *text : text.status().ToString();
  }
  Subject subject_;
};

TEST_P(FileSystemConformance, WritesAndReads) {
  const auto file = files()->Create(Path("a"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->Reserve(1000).ok());
  EXPECT_TRUE((*file)->Append(SpanOf("hello ")).ok());
  EXPECT_TRUE((*file)->Append(SpanOf("world")).ok());
  EXPECT_TRUE((*file)->Sync().ok());
  EXPECT_TRUE((*file)->Close().ok());
  EXPECT_EQ(Read("a"), "hello world");
  EXPECT_EQ(files()->Stat(Path("a"))->bytes, 11u);  // a reservation is no length
  const auto opened = files()->Open(Path("a"));
  EXPECT_EQ((*opened)->size(), 11u);
  std::string word(5, '\0');
  EXPECT_TRUE((*opened)->ReadAt(6, std::as_writable_bytes(std::span(word))).ok());
  EXPECT_EQ(word, "world");
  EXPECT_EQ((*opened)->ReadAt(7, std::as_writable_bytes(std::span(word))).code(), absl::StatusCode::kOutOfRange);
  (*opened)->DropCache();
  EXPECT_TRUE((*opened)->ReadAt(0, std::as_writable_bytes(std::span(word))).ok());
}

// Beyond the sizes from which the machine's files go past the page cache (base/direct_io.h).
TEST_P(FileSystemConformance, LargeFilesOfAnySizeInAnyPieces) {
  std::string bytes(kDirectBytesMin + 4097, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 251 + i / 65521);
  for (const bool sync : {true, false}) {
    const std::string path = Path(sync ? "synced" : "closed");
    const auto file = files()->Create(path);
    ASSERT_TRUE((*file)->Reserve(bytes.size()).ok());
    for (size_t at = 0, piece = 1; at < bytes.size(); at += piece, piece = piece * 7 + 13) {
      ASSERT_TRUE((*file)->Append(SpanOf(std::string_view(bytes).substr(at, piece))).ok());
    }
    if (sync) {
      ASSERT_TRUE((*file)->Sync().ok());
    }
    ASSERT_TRUE((*file)->Close().ok());
    ASSERT_EQ(files()->Stat(path)->bytes, bytes.size());
    const AlignedBuffer buffer(kDirectBytesMin + 2 * kDirectAlignment);
    const std::span<std::byte> whole = buffer.span().first(bytes.size());
    const auto opened = files()->Open(path);
    ASSERT_TRUE((*opened)->ReadAt(0, whole).ok());
    EXPECT_EQ(std::memcmp(whole.data(), bytes.data(), bytes.size()), 0);
    ASSERT_TRUE((*opened)->ReadAt(kDirectAlignment, whole.first(kDirectReadBytesMin + 1)).ok());
    EXPECT_EQ(std::memcmp(whole.data(), bytes.data() + kDirectAlignment, kDirectReadBytesMin + 1), 0);
    EXPECT_EQ((*opened)->ReadAt(kDirectAlignment, whole).code(), absl::StatusCode::kOutOfRange);
  }
}

// What is appended after a sync follows what was synced; without Close the bytes are there all the same.
TEST_P(FileSystemConformance, ALargeFileGoesOnAfterASync) {
  const std::string half(kDirectBytesMin / 2 + 5, 'a'), rest(kDirectBytesMin / 2, 'b');
  {
    const auto file = files()->Create(Path("a"));
    ASSERT_TRUE((*file)->Reserve(half.size() + rest.size()).ok());
    ASSERT_TRUE((*file)->Append(SpanOf(half)).ok());
    ASSERT_TRUE((*file)->Sync().ok());
    ASSERT_TRUE((*file)->Append(SpanOf(rest)).ok());
  }
  const auto text = ReadFile(files(), Path("a"), 2 * kDirectBytesMin);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_TRUE(*text == half + rest);
}

TEST_P(FileSystemConformance, MissingAndExistingPaths) {
  Write("a", "x");
  EXPECT_EQ(files()->Create(Path("a")).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(files()->Create(Path("no/a")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(files()->Open(Path("no")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(files()->Stat(Path("no")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(files()->List(Path("no")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(files()->List(Path("a")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(files()->Remove(Path("no")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(files()->Rename(Path("no"), Path("b")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(files()->Canonical(Path("no")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(files()->SyncDirectory(Path("no")).code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(files()->Open(subject_.folder).ok());  // a folder is no file
}

TEST_P(FileSystemConformance, RenamesReplaceAtomically) {
  Write("old", "old");
  Write("new", "new");
  const auto reader = files()->Open(Path("old"));
  EXPECT_TRUE(files()->Rename(Path("new"), Path("old")).ok());
  EXPECT_EQ(Read("old"), "new");
  EXPECT_FALSE(files()->Stat(Path("new")).ok());
  std::string text(3, '\0');
  EXPECT_TRUE((*reader)->ReadAt(0, std::as_writable_bytes(std::span(text))).ok());
  EXPECT_EQ(text, "old");  // who has it open keeps it
}

TEST_P(FileSystemConformance, LinksShareTheFile) {
  Write("a", "shared");
  EXPECT_TRUE(files()->Link(Path("a"), Path("b")).ok());
  EXPECT_EQ(files()->Link(Path("a"), Path("b")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(files()->Stat(Path("a"))->links, 2u);
  EXPECT_TRUE(files()->Remove(Path("a")).ok());
  EXPECT_EQ(Read("b"), "shared");
  EXPECT_EQ(files()->Stat(Path("b"))->links, 1u);
}

TEST_P(FileSystemConformance, Folders) {
  EXPECT_TRUE(files()->MakeDirectory(Path("d")).ok());
  EXPECT_EQ(files()->MakeDirectory(Path("d")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(files()->MakeDirectory(Path("x/y")).code(), absl::StatusCode::kNotFound);
  Write("d/2", "");
  Write("d/1", "");
  EXPECT_THAT(*files()->List(Path("d")), ElementsAre("1", "2"));
  EXPECT_TRUE(files()->Stat(Path("d"))->is_directory);
  EXPECT_FALSE(files()->RemoveDirectory(Path("d")).ok());
  EXPECT_FALSE(files()->Remove(Path("d")).ok());
  EXPECT_TRUE(files()->SyncDirectory(Path("d")).ok());
  EXPECT_EQ(*files()->Canonical(Path("d/../d/./1")), Path("d/1"));
  EXPECT_TRUE(RemoveTree(files(), Path("d")).ok());
  EXPECT_TRUE(RemoveTree(files(), Path("d")).ok());
  EXPECT_FALSE(files()->Stat(Path("d")).ok());
  EXPECT_GT(*files()->FreeBytes(subject_.folder), 0u);
}

TEST_P(FileSystemConformance, DurableWritesReplaceWholeFiles) {
  EXPECT_TRUE(MakeDirectories(files(), Path("a/b/c")).ok());
  EXPECT_TRUE(MakeDirectories(files(), Path("a/b/c")).ok());
  EXPECT_TRUE(WriteFileDurably(files(), Path("a/b/c/f"), "one").ok());
  EXPECT_TRUE(WriteFileDurably(files(), Path("a/b/c/f"), "two").ok());
  EXPECT_EQ(Read("a/b/c/f"), "two");
  EXPECT_THAT(*files()->List(Path("a/b/c")), ElementsAre("f"));  // no temporaries stay
  EXPECT_EQ(ReadFile(files(), Path("a/b/c/f"), 2).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ParentPath("/a"), "/");
  EXPECT_EQ(ParentPath("a"), ".");
  EXPECT_EQ(ParentPath("/a/b"), "/a");
}

std::string NameOf(const ::testing::TestParamInfo<Subject (*)()>& info) {
  return info.index == 0 ? "Posix" : info.index == 1 ? "Simulated" : "Hooked";
}
INSTANTIATE_TEST_SUITE_P(All, FileSystemConformance, ::testing::Values(&Posix, &Simulated, &Hooked), NameOf);

}  // namespace
}  // namespace vlm
