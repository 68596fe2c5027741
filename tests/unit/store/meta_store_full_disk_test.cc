// RocksDB on a disk that fills up: the commit fails, what was acknowledged stays, and it opens again once there is
// space.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "store/rocksdb_meta_store.h"
#include "tests/support/small_disk.h"

namespace vlm::store {
namespace {

constexpr size_t kRowBytes = 64 << 10;
constexpr int kRowsMax = 2000;  // more than the disk holds

std::string Key(int row) { return absl::StrCat("row ", row); }

// Differs in every byte from row to row, so that nothing can be compressed.
std::string Value(int row) {
  Rng rng(RngKey{5}.Derive(static_cast<uint64_t>(row)));
  std::string value;
  while (value.size() < kRowBytes) {
    const uint64_t bits = rng.NextU64();
    value.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
  }
  return value;
}

// In a process of its own, which ends as the coordinator does: at once, the store not closed. One 'y' for each commit
// that succeeded.
[[noreturn]] void FillAndLeave(const std::string& path, int results) {
  const auto store = OpenRocksDbMetaStore({path, {"a", "b"}});
  if (!store.ok()) _exit(1);
  for (int row = 0; row < kRowsMax; ++row) {
    const absl::Status committed =
        (*store)->Commit({{"a", Key(row), Value(row)}, {"b", Key(row), "beside it"}}, Durability::kSynced);
    if (!committed.ok()) {
      const bool names_it = std::string(committed.message()).find(path) != std::string::npos;
      _exit(absl::IsResourceExhausted(committed) && names_it ? 0 : 2);
    }
    if (write(results, "y", 1) != 1) _exit(4);
  }
  _exit(3);
}

TEST(RocksDbFullDisk, AFailedCommitLosesNothingThatWasAcknowledged) {
  const std::string root = ::testing::TempDir() + "full_database";
  SmallDisk disk(root, 48 << 20);
  if (!disk.mounted()) GTEST_SKIP() << "no tmpfs may be mounted here: " << disk.why_not();
  std::ofstream(root + "/filler") << std::string(16 << 20, 'x');
  int results[2];
  ASSERT_EQ(pipe(results), 0);
  const pid_t child = fork();
  if (child == 0) FillAndLeave(root + "/db", results[1]);
  close(results[1]);
  int acknowledged = 0;
  for (char byte; read(results[0], &byte, 1) == 1 && byte == 'y';) ++acknowledged;
  close(results[0]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  ASSERT_EQ(WEXITSTATUS(status), 0) << "1: cannot open, 2: another error than a full disk, 3: never full";
  ASSERT_GT(acknowledged, 0);
  std::filesystem::remove(root + "/filler");
  const auto store = OpenRocksDbMetaStore({root + "/db", {"a", "b"}});
  ASSERT_TRUE(store.ok()) << store.status();
  for (int row = 0; row < acknowledged; ++row) {
    EXPECT_EQ(*(*store)->Get("a", Key(row)), Value(row)) << Key(row);
    EXPECT_EQ(*(*store)->Get("b", Key(row)), "beside it") << Key(row);
  }
  // The one that failed is there whole or not at all.
  const bool in_a = (*(*store)->Get("a", Key(acknowledged))).has_value();
  EXPECT_EQ((*(*store)->Get("b", Key(acknowledged))).has_value(), in_a);
  EXPECT_TRUE((*store)->Commit({{"a", "after", "it"}}, Durability::kSynced).ok());
}

}  // namespace
}  // namespace vlm::store
