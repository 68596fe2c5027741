// What every MetaStore must do: RocksDB's and the simulated one.
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "store/rocksdb_meta_store.h"
#include "store/simulated_meta_store.h"

namespace vlm::store {
namespace {

using ::testing::ElementsAre;

// A store and a way to end its process or its machine without a word and to open what is left.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual MetaStore* store() = 0;
  virtual void Crash() = 0;
};

class RocksDbSubject final : public Subject {
 public:
  RocksDbSubject() {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    Open();
  }
  MetaStore* store() override { return store_.get(); }
  // What the files hold before a clean close, which would write more, is what a killed process leaves.
  void Crash() override {
    const std::string before = Path();
    ++crashes_;
    std::filesystem::copy(before, Path(), std::filesystem::copy_options::recursive);
    store_.reset();
    std::filesystem::remove_all(before);
    Open();
  }

 private:
  std::string Path() const { return absl::StrCat(folder_, "/", crashes_); }
  void Open() {
    auto store = OpenRocksDbMetaStore({Path(), {"a", "b"}});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  const std::string folder_ = absl::StrCat(::testing::TempDir(), "meta_store_conformance");
  int crashes_ = 0;
  std::unique_ptr<MetaStore> store_;
};

class SimulatedSubject final : public Subject {
 public:
  MetaStore* store() override { return &store_; }
  void Crash() override { store_.Crash(); }

 private:
  SimulatedMetaStore store_{{"a", "b"}};
};

template <typename Kind>
std::unique_ptr<Subject> Make() {
  return std::make_unique<Kind>();
}

class MetaStoreConformance : public ::testing::TestWithParam<std::unique_ptr<Subject> (*)()> {
 protected:
  void SetUp() override {
    subject_ = GetParam()();
    store_ = subject_->store();
    ASSERT_NE(store_, nullptr);
  }
  void Crash() {
    subject_->Crash();
    store_ = subject_->store();
    ASSERT_NE(store_, nullptr);
  }
  void Put(const std::string& key, const std::string& value) {
    ASSERT_TRUE(store_->Commit({{"a", key, value}}, Durability::kUnsynced).ok());
  }
  std::vector<std::string> Keys(std::string_view prefix) {
    std::vector<std::string> keys;
    EXPECT_TRUE(store_
                    ->Scan("a", prefix,
                           [&](std::string_view key, std::string_view) {
                             keys.emplace_back(key);
                             return true;
                           })
                    .ok());
    return keys;
  }
  std::unique_ptr<Subject> subject_;
  MetaStore* store_ = nullptr;
};

TEST_P(MetaStoreConformance, PutsGetsAndDeletes) {
  EXPECT_EQ(*store_->Get("a", "k"), std::nullopt);
  EXPECT_TRUE(store_->Commit({{"a", "k", "v"}, {"b", "k", "w"}}, Durability::kSynced).ok());
  EXPECT_EQ(*store_->Get("a", "k"), "v");
  EXPECT_EQ(*store_->Get("b", "k"), "w");
  EXPECT_TRUE(store_->Commit({{"a", "k", std::nullopt}, {"a", "none", std::nullopt}}, Durability::kUnsynced).ok());
  EXPECT_EQ(*store_->Get("a", "k"), std::nullopt);
  EXPECT_EQ(*store_->Get("b", "k"), "w");
  EXPECT_TRUE(store_->Commit({}, Durability::kSynced).ok());
  Put("", "empty key");
  Put("empty value", "");
  EXPECT_EQ(*store_->Get("a", ""), "empty key");
  EXPECT_EQ(*store_->Get("a", "empty value"), "");
}

TEST_P(MetaStoreConformance, ALaterMutationOfABatchWins) {
  EXPECT_TRUE(store_->Commit({{"a", "k", "1"}, {"a", "k", std::nullopt}, {"a", "k", "2"}}, Durability::kSynced).ok());
  EXPECT_EQ(*store_->Get("a", "k"), "2");
}

TEST_P(MetaStoreConformance, AnUnknownFamilyChangesNothing) {
  EXPECT_EQ(store_->Commit({{"a", "k", "1"}, {"none", "k", "1"}}, Durability::kSynced).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*store_->Get("a", "k"), std::nullopt);
  EXPECT_EQ(store_->Get("none", "k").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->Scan("none", "", [](auto, auto) { return true; }).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(store_->Commit({{"a", "k", "1"}}, Durability::kSynced).ok());  // and is no lasting failure
}

TEST_P(MetaStoreConformance, ScansInUnsignedByteOrder) {
  for (const std::string& key : {std::string("\xff"), std::string("\x7f"), std::string("\x80"), std::string("\x00", 1),
                                 std::string("\x00\x01", 2)}) {
    Put(key, "");
  }
  EXPECT_THAT(Keys(""), ElementsAre(std::string("\x00", 1), std::string("\x00\x01", 2), "\x7f", "\x80", "\xff"));
}

TEST_P(MetaStoreConformance, ScansAPrefixFromAKeyOnAndStops) {
  for (const char* const key : {"p", "p/1", "p/2", "p/3", "p0", "q"}) Put(key, key);
  EXPECT_THAT(Keys("p/"), ElementsAre("p/1", "p/2", "p/3"));
  EXPECT_THAT(Keys("none"), ElementsAre());
  std::vector<std::string> page;
  EXPECT_TRUE(store_
                  ->ScanFrom("a", "p/", "p/2",
                             [&](std::string_view key, std::string_view value) {
                               EXPECT_EQ(key, value);
                               page.emplace_back(key);
                               return false;
                             })
                  .ok());
  EXPECT_THAT(page, ElementsAre("p/2"));
  page.clear();
  EXPECT_TRUE(store_
                  ->ScanFrom("a", "p/", "a",
                             [&](std::string_view key, std::string_view) {
                               page.emplace_back(key);
                               return true;
                             })
                  .ok());
  EXPECT_THAT(page, ElementsAre("p/1", "p/2", "p/3"));  // `first` before the prefix
}

TEST_P(MetaStoreConformance, ThreadsCommitAtOnce) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 25; ++i) Put(absl::StrCat(thread, "/", i), "x");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Keys("").size(), 100u);
}

TEST_P(MetaStoreConformance, ASyncedCommitAndAllBeforeItSurviveACrash) {
  Put("unsynced before", "1");
  ASSERT_TRUE(store_->Commit({{"a", "synced", "2"}, {"b", "synced", "3"}}, Durability::kSynced).ok());
  Crash();
  EXPECT_EQ(*store_->Get("a", "unsynced before"), "1");
  EXPECT_EQ(*store_->Get("a", "synced"), "2");
  EXPECT_EQ(*store_->Get("b", "synced"), "3");
  ASSERT_TRUE(store_->Commit({{"a", "synced", std::nullopt}, {"b", "synced", "4"}}, Durability::kSynced).ok());
  Crash();
  EXPECT_EQ(*store_->Get("a", "synced"), std::nullopt);  // what was deleted does not come back
  EXPECT_EQ(*store_->Get("b", "synced"), "4");
}

TEST_P(MetaStoreConformance, ACrashCutsUnsyncedCommitsOffWholeAndFromTheEnd) {
  ASSERT_TRUE(store_->Commit({{"a", "0", ""}}, Durability::kSynced).ok());
  for (const char* const key : {"1", "2", "3"}) {
    ASSERT_TRUE(store_->Commit({{"a", key, ""}, {"b", key, ""}}, Durability::kUnsynced).ok());
  }
  Crash();
  const std::vector<std::string> kept = Keys("");
  const std::vector<std::string> all = {"0", "1", "2", "3"};
  ASSERT_GE(kept.size(), 1u);
  ASSERT_LE(kept.size(), all.size());
  EXPECT_EQ(kept, std::vector<std::string>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(kept.size())));
  for (const char* const key : {"1", "2", "3"}) {
    EXPECT_EQ(store_->Get("a", key)->has_value(), store_->Get("b", key)->has_value()) << key;
  }
}

TEST_P(MetaStoreConformance, ServesOnAfterACrash) {
  Crash();
  EXPECT_THAT(Keys(""), ElementsAre());
  ASSERT_TRUE(store_->Commit({{"a", "k", "v"}}, Durability::kSynced).ok());
  Crash();
  EXPECT_THAT(Keys(""), ElementsAre("k"));
}

INSTANTIATE_TEST_SUITE_P(All, MetaStoreConformance, ::testing::Values(&Make<RocksDbSubject>, &Make<SimulatedSubject>),
                         [](const auto& info) { return std::string(info.index == 0 ? "RocksDb" : "Simulated"); });

}  // namespace
}  // namespace vlm::store
