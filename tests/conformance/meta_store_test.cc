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

std::unique_ptr<MetaStore> RocksDb() {
  const std::string path = absl::StrCat(::testing::TempDir(), "meta_store_conformance");
  std::filesystem::remove_all(path);
  auto store = OpenRocksDbMetaStore({path, {"a", "b"}});
  EXPECT_TRUE(store.ok()) << store.status();
  return *std::move(store);
}
std::unique_ptr<MetaStore> Simulated() {
  return std::make_unique<SimulatedMetaStore>(std::vector<std::string>{"a", "b"});
}

class MetaStoreConformance : public ::testing::TestWithParam<std::unique_ptr<MetaStore> (*)()> {
 protected:
  void SetUp() override { store_ = GetParam()(); }
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
  std::unique_ptr<MetaStore> store_;
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

INSTANTIATE_TEST_SUITE_P(All, MetaStoreConformance, ::testing::Values(&RocksDb, &Simulated),
                         [](const auto& info) { return std::string(info.index == 0 ? "RocksDb" : "Simulated"); });

}  // namespace
}  // namespace vlm::store
