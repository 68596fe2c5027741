#include "data/tokenizer/split_pattern.h"

#include <string>
#include <vector>

#include "base/random.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/code_point_class.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace vlm::data {
namespace {

using testing::ElementsAre;

std::vector<std::string> Words(SplitPattern pattern, std::string_view text) {
  std::vector<std::string> words;
  WordSplitter splitter(pattern, text);
  std::string_view word;
  while (splitter.Next(&word)) words.emplace_back(word);
  return words;
}

TEST(SplitPatternTest, PatternsDifferInNumbersAndContractions) {
  EXPECT_THAT(Words(SplitPattern::kGpt2, "It'S 12345"), ElementsAre("It", "'", "S", " 12345"));
  EXPECT_THAT(Words(SplitPattern::kGpt4, "It'S 12345"), ElementsAre("It", "'S", " ", "123", "45"));
  EXPECT_THAT(Words(SplitPattern::kQwen2, "It'S 123"), ElementsAre("It", "'S", " ", "1", "2", "3"));
}

TEST(SplitPatternTest, BytesOfIllFormedUtf8StandAloneAsSymbols) {
  EXPECT_THAT(Words(SplitPattern::kGpt4, "a\xFF\xFE b\xE4\xB8"), ElementsAre("a", "\xFF\xFE", " b", "\xE4\xB8"));
  EXPECT_THAT(Words(SplitPattern::kGpt2, "\xED\xA0\x80z"), ElementsAre("\xED\xA0\x80", "z"));  // a surrogate
  EXPECT_THAT(Words(SplitPattern::kGpt2, "1\xC0\xAF"), ElementsAre("1", "\xC0\xAF"));          // overlong
}

TEST(SplitPatternTest, WordsOfAnyBytesJoinToTheText) {
  Rng rng(RngKey{11});
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (uint64_t i = 0, bytes = rng.Below(40); i < bytes; ++i) {
      text.push_back(static_cast<char>(rng.Below(3) == 0 ? " \n'\xE3\x80\x81s"[rng.Below(7)] : rng.Below(256)));
    }
    for (SplitPattern pattern : {SplitPattern::kGpt2, SplitPattern::kGpt4, SplitPattern::kQwen2}) {
      std::string joined;
      for (const std::string& word : Words(pattern, text)) {
        ASSERT_FALSE(word.empty());
        joined += word;
      }
      ASSERT_EQ(joined, text);
    }
  }
}

TEST(SplitPatternTest, NamesAndExpressionsRoundTrip) {
  for (SplitPattern pattern : {SplitPattern::kGpt2, SplitPattern::kGpt4, SplitPattern::kQwen2}) {
    EXPECT_EQ(*PatternFromName(PatternName(pattern)), pattern);
    EXPECT_EQ(PatternFromRegex(PatternRegex(pattern)), pattern);
  }
  EXPECT_EQ(PatternFromName("gpt5").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PatternFromRegex("\\w+"), std::nullopt);
  // As published files of GPT-4's tokenizer write it.
  EXPECT_EQ(PatternFromRegex(R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|)"
                             R"(\s*[\r\n]|\s+(?!\S)|\s+)"),
            SplitPattern::kGpt4);
}

TEST(ByteAlphabetTest, EveryByteHasOneStandInAndBack) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string character(AlphabetCharacter(static_cast<uint8_t>(byte)));
    EXPECT_EQ(*BytesOfEntry(character), std::string(1, static_cast<char>(byte)));
    EXPECT_TRUE(IsUtf8(character));
    all += character;
  }
  EXPECT_EQ(BytesOfEntry(all)->size(), 256u);
  EXPECT_EQ(AlphabetCharacter(' '), "Ġ");
  EXPECT_EQ(BytesOfEntry("a b"), std::nullopt);
  EXPECT_EQ(BytesOfEntry("中"), std::nullopt);
  for (const char* const none : {"\xC4", "\xC4x", "\xC4\xC4", "\x80", "\xC1\x80", "\xC2\xA0", "\xC5\x84", "\xDF\xBF"}) {
    EXPECT_EQ(BytesOfEntry(none), std::nullopt) << none;
  }
  EXPECT_EQ(BytesOfEntry("\xC5\x83"), "\xAD") << "the last stand-in";
}

}  // namespace
}  // namespace vlm::data
