#include "data/tokenizer/word_counts.h"

#include <string>

#include "base/digest.h"
#include "corpora.h"
#include "gtest/gtest.h"

namespace vlm::data {
namespace {

// `bytes` with the digest at its end made right again.
std::string Resigned(std::string bytes) {
  bytes.resize(bytes.size() - 32);
  const Digest digest = Sha256Of(std::string_view(bytes));
  return bytes.append(reinterpret_cast<const char*>(digest.bytes.data()), 32);
}

TEST(WordCountsTest, CountsEveryOccurrence) {
  WordCounts counts(SplitPattern::kGpt2);
  counts.Add("a b a");
  counts.Add("a");
  EXPECT_EQ(counts.total_words(), 4u);
  const auto words = counts.Sorted();
  ASSERT_EQ(words.size(), 3u);  // " a", " b", "a"
  EXPECT_EQ(words[0].word, " a");
  EXPECT_EQ(words[0].count, 1u);
  EXPECT_EQ(words[2].word, "a");
  EXPECT_EQ(words[2].count, 2u);
}

TEST(WordCountsTest, ShardsMergedInAnyOrderGiveTheBytesOfOneCount) {
  Documents documents = EnglishLikeText(RngKey{5}, 30);
  const Documents more = ChineseLikeText(RngKey{6}, 30);
  documents.insert(documents.end(), more.begin(), more.end());
  WordCounts whole(SplitPattern::kQwen2);
  WordCounts shards[3] = {WordCounts(SplitPattern::kQwen2), WordCounts(SplitPattern::kQwen2),
                          WordCounts(SplitPattern::kQwen2)};
  for (size_t i = 0; i < documents.size(); ++i) {
    whole.Add(documents[i]);
    shards[i % 3].Add(documents[i]);
  }
  WordCounts forward(SplitPattern::kQwen2), backward(SplitPattern::kQwen2);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(forward.Merge(*WordCounts::Parse(shards[i].Serialize())).ok());
    ASSERT_TRUE(backward.Merge(shards[2 - i]).ok());
  }
  EXPECT_EQ(forward.Serialize(), whole.Serialize());
  EXPECT_EQ(backward.Serialize(), whole.Serialize());
  EXPECT_EQ(forward.total_words(), whole.total_words());
  EXPECT_EQ(backward.Merge(WordCounts(SplitPattern::kGpt2)).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(backward.Merge(backward).ok());
  EXPECT_EQ(backward.total_words(), 2 * whole.total_words());
}

TEST(WordCountsTest, DamagedFilesAreRefused) {
  WordCounts counts(SplitPattern::kGpt4);
  counts.Add("some words and some more words");
  const std::string good = counts.Serialize();
  ASSERT_TRUE(WordCounts::Parse(good).ok());
  for (size_t i = 0; i < good.size(); ++i) {
    std::string flipped = good;
    flipped[i] = static_cast<char>(flipped[i] ^ 1);
    ASSERT_FALSE(WordCounts::Parse(flipped).ok()) << i;
    ASSERT_FALSE(WordCounts::Parse(good.substr(0, i)).ok()) << i;
  }
  // Damage that a matching digest covers.
  for (const auto& [at, value] :
       {std::pair<size_t, char>{12, 9}, {16, 100}, {16, 1}, {16, 6}, {24, 120}, {24, 0}, {27, 127}, {32, 0}}) {
    std::string changed = good;
    changed[at] = value;
    EXPECT_EQ(WordCounts::Parse(Resigned(changed)).status().code(), absl::StatusCode::kInvalidArgument) << at;
  }
}

TEST(WordCountsTest, CountsStopAtTheLargestNumber) {
  WordCounts counts(SplitPattern::kGpt2);
  counts.Add("a");
  for (int i = 0; i < 64; ++i) ASSERT_TRUE(counts.Merge(counts).ok());  // doubles
  EXPECT_EQ(counts.total_words(), ~uint64_t{0});
  EXPECT_EQ(counts.Sorted().at(0).count, ~uint64_t{0});
}

TEST(WordCountsTest, WordsOfAnyLengthAndNumberAreKept) {
  WordCounts counts(SplitPattern::kGpt2);
  std::string text;
  for (int i = 0; i < 3000; ++i) text += " " + std::string(static_cast<size_t>(400 + i), 'a');  // more than a block
  const std::string longest(3 << 20, 'b');
  counts.Add(text + " " + longest);
  counts.Add(text);
  const auto words = counts.Sorted();
  ASSERT_EQ(words.size(), 3001u);
  EXPECT_EQ(words.back().word, " " + longest);
  for (size_t i = 0; i < 3000; ++i) {
    ASSERT_EQ(words[i].word, " " + std::string(400 + i, 'a'));
    ASSERT_EQ(words[i].count, 2u);
  }
}

}  // namespace
}  // namespace vlm::data
