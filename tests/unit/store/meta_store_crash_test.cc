// What each store keeps over the end of its process or machine, beside the conformance suite.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
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

std::string BytesOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// By "family/key".
using Rows = std::map<std::string, std::string>;

Rows RowsOf(const MetaStore& store) {
  Rows rows;
  for (const char* const family : {"a", "b"}) {
    const absl::Status scanned = store.Scan(family, "", [&](std::string_view key, std::string_view value) {
      rows[absl::StrCat(family, "/", std::string(key))] = std::string(value);
      return true;
    });
    EXPECT_TRUE(scanned.ok()) << scanned;
  }
  return rows;
}

// A power loss while the last of some commits was being written: the file system kept any beginning of its record.
class PowerLossTest : public ::testing::Test {
 protected:
  // Values end in zeros: what looks like a lost tail and is none.
  static std::string ValueOf(int i) { return absl::StrCat("value ", i, std::string(3, '\0')); }

  void SetUp() override {
    database_ = EmptyFolder("rocksdb_power");
    copy_ = EmptyFolder("rocksdb_power_copy");
    const std::string size_file = EmptyFolder("rocksdb_power_size");
    const pid_t child = fork();
    if (child == 0) {
      const auto store = OpenRocksDbMetaStore({database_, {"a", "b"}});
      for (int i = 0; i < 5; ++i) {
        const std::vector<Mutation> row = {{"a", absl::StrCat("key ", i), ValueOf(i)}};
        if (!store.ok() || !(*store)->Commit(row, Durability::kSynced).ok()) _exit(1);
      }
      std::ofstream(size_file) << std::filesystem::file_size(Log());
      const std::vector<Mutation> last = {{"a", "key 1", std::nullopt}, {"b", "new", "w"}, {"a", "key 2", "changed"}};
      if (!(*store)->Commit(last, Durability::kSynced).ok()) _exit(1);
      kill(getpid(), SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    log_ = Log();
    bytes_ = BytesOf(log_);
    begin_ = std::stoul(BytesOf(size_file));
    ASSERT_LT(begin_ + 30, bytes_.size());
    for (int i = 0; i < 5; ++i) before_[absl::StrCat("a/key ", i)] = ValueOf(i);
    after_ = before_;
    after_.erase("a/key 1");
    after_["a/key 2"] = "changed";
    after_["b/new"] = "w";
  }

  // The one log that is not empty.
  std::string Log() const {
    for (const auto& entry : std::filesystem::directory_iterator(database_)) {
      if (entry.path().extension() == ".log" && entry.file_size() > 0) return entry.path();
    }
    return "";
  }

  // What the database holds when its log is `bytes`; a copy of it, since opening writes.
  absl::StatusOr<Rows> RowsWithLog(const std::string& bytes) {
    std::ofstream(log_, std::ios::binary) << bytes;
    std::filesystem::remove_all(copy_);
    std::filesystem::copy(database_, copy_, std::filesystem::copy_options::recursive);
    VLM_ASSIGN_OR_RETURN(const std::unique_ptr<MetaStore> store, OpenRocksDbMetaStore({copy_, {"a", "b"}}));
    return RowsOf(*store);
  }

  // The last commit is there whole or not at all, and all others are.
  void ExpectWholeOrNot(const std::string& bytes, size_t kept) {
    const absl::StatusOr<Rows> rows = RowsWithLog(bytes);
    ASSERT_TRUE(rows.ok()) << kept << " bytes of the record kept: " << rows.status();
    EXPECT_TRUE(*rows == before_ || *rows == after_) << kept << ": " << ::testing::PrintToString(*rows);
    if (kept == 0) {
      EXPECT_EQ(*rows, before_);
    }
    if (begin_ + kept == bytes_.size()) {
      EXPECT_EQ(*rows, after_);
    }
  }

  std::string database_, copy_, log_, bytes_;
  size_t begin_ = 0;  // of the last record
  Rows before_, after_;
};

TEST_F(PowerLossTest, ALogCutAnywhereInItsLastRecordKeepsTheCommitWholeOrNotAtAll) {
  for (size_t kept = 0; begin_ + kept <= bytes_.size(); ++kept) ExpectWholeOrNot(bytes_.substr(0, begin_ + kept), kept);
}

// A file system may store the file's new length and not all of its bytes.
TEST_F(PowerLossTest, ALogThatEndsInZerosFromAnywhereInItsLastRecordDoesToo) {
  const size_t page_end = (bytes_.size() / 4096 + 1) * 4096;
  for (size_t kept = 0; begin_ + kept <= bytes_.size(); ++kept) {
    std::string zeros = bytes_.substr(0, begin_ + kept);
    zeros.resize(page_end);
    ExpectWholeOrNot(zeros, kept);
  }
  // Longer than a block of the log, which is 32 KiB: the record's block is full of zeros, too.
  std::string zeros = bytes_.substr(0, begin_ + 20);
  zeros.resize(100'000);
  ExpectWholeOrNot(zeros, 20);
}

TEST_F(PowerLossTest, ZerosAtTheEndExcuseNoDamageBeforeThem) {
  std::string rotten = bytes_.substr(0, begin_);
  ASSERT_EQ(rotten.back(), '\0') << "the last row's value";
  const size_t at = rotten.find("key 3");
  ASSERT_LT(at, rotten.size());
  rotten[at] = static_cast<char>(rotten[at] ^ 0x40);
  for (const size_t zeros : {0, 1000}) {
    rotten.resize(begin_ + zeros);
    const absl::Status opened = RowsWithLog(rotten).status();
    EXPECT_EQ(opened.code(), absl::StatusCode::kDataLoss) << zeros << ": " << opened;
    EXPECT_TRUE(BytesOf(copy_ + "/" + std::filesystem::path(log_).filename().string()) == rotten)
        << "the refusal changed the log";
  }
}

TEST_F(PowerLossTest, ADamagedLastRecordWhoseValueEndsInZerosIsNotTakenForALostTail) {
  std::string rotten = bytes_.substr(0, begin_);
  ASSERT_EQ(rotten.back(), '\0') << "the last row's value";
  const size_t at = rotten.find("key 4");
  ASSERT_LT(at, rotten.size());
  rotten[at] = static_cast<char>(rotten[at] ^ 0x40);
  EXPECT_EQ(RowsWithLog(rotten).status().code(), absl::StatusCode::kDataLoss);
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
