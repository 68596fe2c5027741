#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <string>

#include "corpora.h"
#include "data/tokenizer/chat_files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace vlm::data {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

BytePairModel SmallModel(SplitPattern pattern = SplitPattern::kQwen2) {
  WordCounts counts(pattern);
  for (const std::string& document : EnglishLikeText(RngKey{3}, 10)) counts.Add(document);
  return *TrainBytePair(counts, {500, 2, ChatSpecialTokens({"<|extra|>"})});
}

std::unique_ptr<Tokenizer> SmallTokenizer() { return *Tokenizer::Create(SmallModel()); }

TEST(TokenizerTest, AnyBytesDecodeToThemselves) {
  const auto tokenizer = SmallTokenizer();
  Rng rng(RngKey{21});
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (uint64_t i = 0, bytes = rng.Below(300); i < bytes; ++i) text.push_back(static_cast<char>(rng.Below(256)));
    ASSERT_EQ(*tokenizer->Decode(tokenizer->EncodeOrdinary(text)), text);
    ASSERT_EQ(*tokenizer->Decode(tokenizer->EncodeWithSpecial(text)), text);
  }
  for (const std::string& text : NastyStrings(RngKey{22}, 2000)) {
    ASSERT_EQ(*tokenizer->Decode(tokenizer->EncodeOrdinary(text)), text);
  }
}

// The definition: merge the leftmost pair of lowest rank until none is left.
std::vector<int32_t> EncodeByDefinition(const BytePairModel& model, std::string_view word) {
  std::vector<std::string> parts;
  for (char byte : word) parts.emplace_back(1, byte);
  const auto tokenizer = Tokenizer::Create(model).value();
  std::vector<std::string> bytes(model.vocabulary.size());
  for (size_t id = 0; id < bytes.size(); ++id) bytes[id] = *tokenizer->Decode(std::vector{static_cast<int32_t>(id)});
  while (true) {
    size_t best = parts.size(), rank_of_best = model.merges.size();
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      for (size_t rank = 0; rank < rank_of_best; ++rank) {
        if (bytes[model.merges[rank].left] != parts[i] || bytes[model.merges[rank].right] != parts[i + 1]) continue;
        best = i;
        rank_of_best = rank;
      }
    }
    if (best == parts.size()) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
  std::vector<int32_t> ids;
  for (const std::string& part : parts) {
    ids.push_back(static_cast<int32_t>(std::find(bytes.begin() + 5, bytes.end(), part) - bytes.begin()));
  }
  return ids;
}

TEST(TokenizerTest, WordsOfEveryLengthFollowTheDefinition) {
  const BytePairModel model = SmallModel();
  const auto tokenizer = Tokenizer::Create(model).value();
  Rng rng(RngKey{4});
  for (size_t length : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 64, 65, 95, 96, 97, 98, 130, 257}) {
    std::string word;
    while (word.size() < length) word.push_back("theranstioed"[rng.Below(12)]);
    EXPECT_EQ(tokenizer->EncodeOrdinary(word), EncodeByDefinition(model, word)) << word;
  }
}

TEST(TokenizerTest, TextCannotBecomeASpecialToken) {
  const auto tokenizer = SmallTokenizer();
  const int32_t image = *tokenizer->TokenId("<|image|>");
  EXPECT_EQ(tokenizer->EncodeWithSpecial("<|image|>"), std::vector<int32_t>{image});
  for (const std::string& token : ChatSpecialTokens({"<|extra|>"})) {
    for (int32_t id : tokenizer->EncodeOrdinary("x" + token + token)) EXPECT_FALSE(tokenizer->IsSpecial(id)) << token;
  }
  EXPECT_EQ(*tokenizer->Decode(std::vector{image}, SpecialTokens::kSkip), "");
  EXPECT_EQ(*tokenizer->Decode(std::vector{image}), "<|image|>");
  EXPECT_EQ(tokenizer->TokenId("<|absent|>"), std::nullopt);
  EXPECT_EQ(tokenizer->TokenId("the"), std::nullopt);
}

TEST(TokenizerTest, DecodeNamesAnUnknownId) {
  const auto tokenizer = SmallTokenizer();
  const auto text = tokenizer->Decode(std::vector<int32_t>{5, tokenizer->vocab_size()});
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("position 1"));
  EXPECT_FALSE(tokenizer->Decode(std::vector<int32_t>{-1}).ok());
}

TEST(TokenizerTest, JsonRoundTripsToEqualBytes) {
  for (SplitPattern pattern : {SplitPattern::kGpt2, SplitPattern::kGpt4, SplitPattern::kQwen2}) {
    const std::string json = (*Tokenizer::Create(SmallModel(pattern)))->ToJson();
    const auto read = Tokenizer::FromJson(json);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ((*read)->ToJson(), json);
  }
}

TEST(TokenizerTest, MergesAsOldStyleStringsAndNewTokensBeyondTheModelAreRead) {
  Json json = Json::parse(SmallTokenizer()->ToJson());
  for (Json& merge : json["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  json["added_tokens"].push_back({{"id", 500}, {"content", "<|new|>"}, {"special", false}});
  const auto read = Tokenizer::FromJson(json.dump());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ((*read)->vocab_size(), 501);
  const auto ids = (*read)->EncodeOrdinary("the<|new|>the");  // not special: part of any text
  EXPECT_THAT(ids, testing::Contains(500));
  EXPECT_EQ(*(*read)->Decode(ids), "the<|new|>the");
  EXPECT_EQ((*read)->model().merges, SmallModel().merges);
}

struct Refusal {
  const char* pointer;
  Json value;
  const char* named;
};

TEST(TokenizerTest, WhatCannotBeHonouredIsRefusedByName) {
  const Json good = Json::parse(SmallTokenizer()->ToJson());
  const std::vector<Refusal> refusals = {
      {"/version", "2.0", "version"},
      {"/surprise", 1, "surprise"},
      {"/truncation", {{"max_length", 5}}, "truncation"},
      {"/normalizer", {{"type", "NFC"}}, "normalizer"},
      {"/post_processor", {{"type", "TemplateProcessing"}}, "post_processor"},
      {"/decoder", nullptr, "decoder"},
      {"/pre_tokenizer", nullptr, "pre_tokenizer"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\w+", "Regex"},
      {"/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}}, "pattern.String"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Removed", "behavior"},
      {"/pre_tokenizer/pretokenizers/0/invert", true, "invert"},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", true, "add_prefix_space"},
      {"/pre_tokenizer/pretokenizers/1/use_regex", true, "use_regex"},
      {"/model/type", "WordPiece", "model.type"},
      {"/model/dropout", 0.1, "dropout"},
      {"/model/unk_token", "<unk>", "unk_token"},
      {"/model/byte_fallback", true, "byte_fallback"},
      {"/model/continuing_subword_prefix", "##", "continuing_subword_prefix"},
      {"/model/vocab/the", 9999, "model.vocab[the]"},
      {"/model/vocab/the", -1, "model.vocab[the]"},
      {"/model/vocab/the", 7, "id is given twice"},
      {"/model/merges/0", "ab", "model.merges[0]"},
      {"/model/merges/0", {"a", "<nothing>"}, "model.merges[0]"},
      {"/model/merges/0", {"Z", "Z"}, "merges[0]"},
      {"/model/merges/1", good["model"]["merges"][0], "merges[1]"},
      {"/added_tokens/0/lstrip", true, "added_tokens[0].lstrip"},
      {"/added_tokens/0/id", 1, "added_tokens"},
      {"/added_tokens/0/content", "", "added_tokens[0]"},
      {"/added_tokens/0/content", 5, "added_tokens[0].content"},
      {"/added_tokens/0/color", 5, "added_tokens[0].color"},
  };
  for (const Refusal& refusal : refusals) {
    Json changed = good;
    changed[Json::json_pointer(refusal.pointer)] = refusal.value;
    const auto read = Tokenizer::FromJson(changed.dump());
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << refusal.pointer;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(refusal.named)) << refusal.pointer;
  }
  EXPECT_EQ(Tokenizer::FromJson(std::string(20, '[')).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(Tokenizer::FromJson(R"({"model": {}, "model": {}})").status().message()), HasSubstr("twice"));
  for (const char* text : {"", "null", "[]", "{", "{}", "\"\\ud800\"", "{\"version\": \"1.0\"}"}) {
    EXPECT_EQ(Tokenizer::FromJson(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(TokenizerTest, DamagedJsonNeverCrashes) {
  const std::string good = SmallTokenizer()->ToJson();
  Rng rng(RngKey{77});
  for (int round = 0; round < 300; ++round) {
    std::string damaged = good;
    for (uint64_t i = 0, edits = 1 + rng.Below(4); i < edits; ++i) {
      const size_t at = rng.Below(damaged.size());
      switch (rng.Below(4)) {
        case 0:
          damaged[at] = static_cast<char>(rng.Below(256));
          break;
        case 1:
          damaged.erase(at, 1 + rng.Below(20));
          break;
        case 2:
          damaged.insert(at, std::string(1, "{}[]\",:0\\"[rng.Below(9)]));
          break;
        default:
          damaged.resize(at + 1);
      }
    }
    const auto read = Tokenizer::FromJson(damaged);
    if (read.ok()) {
      EXPECT_EQ(*(*read)->Decode((*read)->EncodeOrdinary("the text 12")), "the text 12");
    }
  }
}

TEST(TokenizerTest, WordsThatAreEntriesWinWithIgnoreMerges) {
  BytePairModel model = SmallModel();
  model.vocabulary.push_back("qqzz");
  const int32_t id = static_cast<int32_t>(model.vocabulary.size()) - 1;
  EXPECT_EQ((*Tokenizer::Create(model))->EncodeOrdinary("qqzz").size(), 4u);
  model.ignore_merges = true;
  EXPECT_EQ((*Tokenizer::Create(model))->EncodeOrdinary("qqzz"), std::vector<int32_t>{id});
}

TEST(TrainBytePairTest, BadOptionsAreRefused) {
  const WordCounts counts(SplitPattern::kQwen2);
  const std::vector<BytePairOptions> bad = {
      {0, 2, {}},
      {kVocabularyEntriesMax + 1, 2, {}},
      {300, 2, {""}},
      {300, 2, {"<|a|>", "<|a|>"}},
      {300, 2, {"\xFF|>"}},
      {300, 2, {"plain"}},
      {300, 2, {"<|" + std::string(kAddedTokenBytesMax, 'x')}},
  };
  for (const BytePairOptions& options : bad) {
    EXPECT_EQ(TrainBytePair(counts, options).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(ChatFilesTest, ATokenizerWithoutChatTokensIsRefused) {
  const auto plain = *Tokenizer::Create(*TrainBytePair(WordCounts(SplitPattern::kQwen2), {256, 2, {}}));
  EXPECT_EQ(TokenizerConfigJson(*plain, 10).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(SpecialTokensMapJson(*plain).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace vlm::data
