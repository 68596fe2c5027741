// What each store keeps over the end of its process or machine, beside the conformance suite.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "store/rocksdb_meta_store.h"
#include "store/simulated_meta_store.h"

namespace vlm::store {
namespace {

using ::testing::HasSubstr;

std::string EmptyFolder(const std::string& name) {
  const std::string path = absl::StrCat(::testing::TempDir(), name);
  std::filesystem::remove_all(path);
  return path;
}

TEST(RocksDbMetaStore, KeepsRowsAndGainsFamilies) {
  const std::string path = EmptyFolder("rocksdb_reopen");
  {
    const auto store = OpenRocksDbMetaStore({path, {"old"}});
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_TRUE((*store)->Commit({{"old", "k", "v"}}, Durability::kSynced).ok());
  }
  {
    const auto store = OpenRocksDbMetaStore({path, {"new"}});
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_TRUE((*store)->Commit({{"new", "k", "w"}}, Durability::kSynced).ok());
    EXPECT_EQ((*store)->Get("old", "k").status().code(), absl::StatusCode::kInvalidArgument);
  }
  const auto store = OpenRocksDbMetaStore({path, {"old", "new"}});
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(*(*store)->Get("old", "k"), "v");
  EXPECT_EQ(*(*store)->Get("new", "k"), "w");
}

TEST(RocksDbMetaStore, NamesTheHolderOfTheLock) {
  const std::string path = EmptyFolder("rocksdb_lock");
  {
    const auto mine = OpenRocksDbMetaStore({path, {"a"}});
    ASSERT_TRUE(mine.ok()) << mine.status();
    const absl::Status again = OpenRocksDbMetaStore({path, {"a"}}).status();
    EXPECT_EQ(again.code(), absl::StatusCode::kFailedPrecondition) << again;
    EXPECT_THAT(std::string(again.message()), HasSubstr("in this process"));
  }
  int opened[2], finish[2];
  ASSERT_EQ(pipe(opened), 0);
  ASSERT_EQ(pipe(finish), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(finish[1]);
    const auto store = OpenRocksDbMetaStore({path, {"a"}});
    const char answer = store.ok() ? 'y' : 'n';
    char byte;
    if (write(opened[1], &answer, 1) != 1 || read(finish[0], &byte, 1) < 0) _exit(1);
    _exit(0);  // without closing: as a crash would
  }
  close(finish[0]);
  char answer = 0;
  ASSERT_EQ(read(opened[0], &answer, 1), 1);
  ASSERT_EQ(answer, 'y');
  const absl::Status held = OpenRocksDbMetaStore({path, {"a"}}).status();
  EXPECT_EQ(held.code(), absl::StatusCode::kFailedPrecondition) << held;
  EXPECT_THAT(std::string(held.message()), HasSubstr(absl::StrCat("pid ", child)));
  close(finish[1]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(OpenRocksDbMetaStore({path, {"a"}}).ok());
}

TEST(RocksDbMetaStore, SyncedCommitsSurviveAKilledProcess) {
  const std::string path = EmptyFolder("rocksdb_killed");
  const pid_t child = fork();
  if (child == 0) {
    const auto store = OpenRocksDbMetaStore({path, {"a"}});
    if (!store.ok() || !(*store)->Commit({{"a", "k", "v"}}, Durability::kSynced).ok()) _exit(1);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  const auto store = OpenRocksDbMetaStore({path, {"a"}});
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(*(*store)->Get("a", "k"), "v");
}

// The write-ahead log of a process that was killed after `commits` synced commits, and the log's bytes.
struct LeftLog {
  std::string database, log, bytes;
};
LeftLog LogOfAKilledProcess(const std::string& name, int commits) {
  LeftLog left;
  left.database = EmptyFolder(name);
  const pid_t child = fork();
  if (child == 0) {
    const auto store = OpenRocksDbMetaStore({left.database, {"a"}});
    for (int i = 0; i < commits; ++i) {
      const std::vector<Mutation> row = {{"a", absl::StrCat("key ", i), std::string(100, 'v')}};
      if (!store.ok() || !(*store)->Commit(row, Durability::kSynced).ok()) _exit(1);
    }
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  for (const auto& entry : std::filesystem::directory_iterator(left.database)) {
    if (entry.path().extension() != ".log" || entry.file_size() == 0) continue;
    EXPECT_EQ(left.log, "") << "more than one log";
    left.log = entry.path();
  }
  std::ifstream file(left.log, std::ios::binary);
  left.bytes.assign(std::istreambuf_iterator<char>(file), {});
  EXPECT_GT(left.bytes.size(), 100u * static_cast<size_t>(commits));
  return left;
}

TEST(RocksDbMetaStore, DamageInTheMiddleOfTheLogIsAnErrorAndNotALoss) {
  LeftLog left = LogOfAKilledProcess("rocksdb_rot", 20);
  for (const size_t at : {left.bytes.find("key 5"), left.bytes.find("key 18")}) {
    ASSERT_LT(at, left.bytes.size());
    std::string rotten = left.bytes;
    rotten[at] = static_cast<char>(rotten[at] ^ 0x40);
    std::ofstream(left.log, std::ios::binary) << rotten;
    const absl::Status opened = OpenRocksDbMetaStore({left.database, {"a"}}).status();
    EXPECT_EQ(opened.code(), absl::StatusCode::kDataLoss) << at << ": " << opened;
  }
  std::ofstream(left.log, std::ios::binary) << left.bytes;  // the refusals changed nothing
  const auto store = OpenRocksDbMetaStore({left.database, {"a"}});
  ASSERT_TRUE(store.ok()) << store.status();
  for (int i = 0; i < 20; ++i) EXPECT_TRUE((*store)->Get("a", absl::StrCat("key ", i))->has_value()) << i;
}

TEST(RocksDbMetaStore, ATailThatACrashCutShortIsDroppedAlone) {
  const LeftLog left = LogOfAKilledProcess("rocksdb_tail", 20);
  for (const size_t cut : {size_t{1}, size_t{50}, size_t{110}}) {
    std::ofstream(left.log, std::ios::binary) << left.bytes.substr(0, left.bytes.size() - cut);
    const std::string copy = EmptyFolder("rocksdb_tail_copy");
    std::filesystem::copy(left.database, copy, std::filesystem::copy_options::recursive);
    const auto store = OpenRocksDbMetaStore({copy, {"a"}});
    ASSERT_TRUE(store.ok()) << cut << ": " << store.status();
    for (int i = 0; i < 19; ++i)
      EXPECT_TRUE((*store)->Get("a", absl::StrCat("key ", i))->has_value()) << cut << " " << i;
    EXPECT_FALSE((*store)->Get("a", "key 19")->has_value()) << cut;
  }
}

TEST(RocksDbMetaStore, APathThatCannotBeADatabaseIsAnError) {
  EXPECT_FALSE(OpenRocksDbMetaStore({"/proc/no/such/place", {"a"}}).ok());
}

TEST(SimulatedMetaStore, LosesTheUnsyncedTail) {
  SimulatedMetaStore store({"a"});
  ASSERT_TRUE(store.Commit({{"a", "1", ""}}, Durability::kUnsynced).ok());
  ASSERT_TRUE(store.Commit({{"a", "2", ""}}, Durability::kSynced).ok());  // takes the first with it
  ASSERT_TRUE(store.Commit({{"a", "3", ""}}, Durability::kUnsynced).ok());
  ASSERT_TRUE(store.Commit({{"a", "4", ""}}, Durability::kUnsynced).ok());
  EXPECT_EQ(store.unsynced(), 2u);
  store.Crash(/*unsynced_kept=*/1);
  for (const char* const key : {"1", "2", "3"}) EXPECT_TRUE(store.Get("a", key)->has_value()) << key;
  EXPECT_FALSE(store.Get("a", "4")->has_value());
}

TEST(SimulatedMetaStore, StaysFailedAfterAFullDiskUntilReopened) {
  SimulatedMetaStore store({"a"});
  store.SetCapacity(10);
  ASSERT_TRUE(store.Commit({{"a", "k", "12345"}}, Durability::kSynced).ok());
  EXPECT_EQ(store.Commit({{"a", "l", "123456789"}}, Durability::kSynced).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(store.Commit({{"a", "m", ""}}, Durability::kSynced).ok());
  EXPECT_FALSE(store.Get("a", "k").ok());
  store.Crash();
  EXPECT_EQ(*store.Get("a", "k"), "12345");
  EXPECT_EQ(*store.Get("a", "l"), std::nullopt);
}

TEST(SimulatedMetaStore, StopsAfterTheGivenCommits) {
  SimulatedMetaStore store({"a"});
  store.StopAfter(1);
  EXPECT_TRUE(store.Commit({{"a", "1", ""}}, Durability::kSynced).ok());
  EXPECT_EQ(store.Commit({{"a", "2", ""}}, Durability::kSynced).code(), absl::StatusCode::kAborted);
  store.Crash();
  EXPECT_TRUE(store.Commit({{"a", "2", ""}}, Durability::kSynced).ok());
  EXPECT_EQ(store.commits(), 2u);
}

}  // namespace
}  // namespace vlm::store
