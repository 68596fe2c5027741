#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <functional>
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
  EXPECT_EQ(tokenizer->TokenId(""), std::nullopt);
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_FALSE(tokenizer->IsSpecial(tokenizer->vocab_size()));
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
  json["model"]["end_of_word_suffix"] = "";  // none
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

// Each change alone makes a file that is refused with the place named.
void ExpectRefused(const Json& good, const std::vector<Refusal>& refusals) {
  for (const Refusal& refusal : refusals) {
    Json changed = good;
    changed[Json::json_pointer(refusal.pointer)] = refusal.value;
    const auto read = Tokenizer::FromJson(changed.dump());
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << refusal.pointer;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(refusal.named)) << refusal.pointer;
  }
}

TEST(TokenizerTest, StepsThatCannotBeHonouredAreRefusedByName) {
  const std::vector<Refusal> refusals = {
      {"/version", "2.0", "version"},
      {"/surprise", 1, "surprise"},
      {"/truncation", {{"max_length", 5}}, "truncation"},
      {"/normalizer", {{"type", "NFC"}}, "normalizer"},
      {"/post_processor", {{"type", "TemplateProcessing"}}, "post_processor"},
      {"/decoder", nullptr, "decoder"},
      {"/pre_tokenizer", nullptr, "pre_tokenizer"},
      {"/pre_tokenizer", "ByteLevel", "pre_tokenizer"},
      {"/pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", true}}, "pre_tokenizer.add_prefix_space"},
      {"/pre_tokenizer", {{"type", "ByteLevel"}}, "pre_tokenizer.add_prefix_space is absent"},
      {"/pre_tokenizer",
       {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}},
       "pre_tokenizer.use_regex"},
      {"/pre_tokenizer/pretokenizers", 5, "pre_tokenizer.pretokenizers"},
      {"/pre_tokenizer/pretokenizers", {1, 2, 3}, "must be a Split and a ByteLevel"},
      {"/pre_tokenizer/pretokenizers/0/type", "Digits", "pretokenizers[0].type"},
      {"/pre_tokenizer/pretokenizers/0/pattern", 5, "pattern"},
      {"/pre_tokenizer/pretokenizers/0/pattern", Json::object(), "pattern.Regex"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", 5, "pattern.Regex"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\w+", "Regex"},
      {"/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}}, "pattern.String"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Removed", "behavior"},
      {"/pre_tokenizer/pretokenizers/0/invert", true, "invert"},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", true, "add_prefix_space"},
      {"/pre_tokenizer/pretokenizers/1/use_regex", true, "use_regex"},
  };
  ExpectRefused(Json::parse(SmallTokenizer()->ToJson()), refusals);
}

TEST(TokenizerTest, ModelsAndAddedTokensThatCannotBeHonouredAreRefusedByName) {
  const Json good = Json::parse(SmallTokenizer()->ToJson());
  const std::vector<Refusal> refusals = {
      {"/model/type", "WordPiece", "model.type"},
      {"/model/dropout", 0.1, "dropout"},
      {"/model/unk_token", "<unk>", "unk_token"},
      {"/model/byte_fallback", true, "byte_fallback"},
      {"/model/continuing_subword_prefix", "##", "continuing_subword_prefix"},
      {"/model/continuing_subword_prefix", 5, "continuing_subword_prefix"},
      {"/model/fuse_unk", "no", "fuse_unk"},
      {"/model/ignore_merges", 1, "ignore_merges"},
      {"/model/surprise", 1, "model.surprise"},
      {"/model/vocab", 5, "model.vocab"},
      {"/model/merges", 5, "model.merges"},
      {"/model/merges/0", {"a"}, "must be a pair"},
      {"/model/merges/0", {"a", 5}, "must be a pair"},
      {"/model/merges/0", {5, "a"}, "must be a pair"},
      {"/model/merges/0", 5, "must be a pair"},
      {"/model/merges/0", "t h e", "one space between"},
      {"/model/vocab/the", "7", "model.vocab[the]"},
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
      {"/added_tokens/0/special", 1, "added_tokens[0].special"},
      {"/added_tokens/0/normalized", "no", "added_tokens[0].normalized"},
      {"/added_tokens/0/id", -1, "added_tokens[0].id"},
      {"/added_tokens/0/id", kVocabularyEntriesMax, "added_tokens[0].id"},
      {"/added_tokens/0", 5, "added_tokens[0]"},
      {"/added_tokens", 5, "added_tokens"},
      {"/model", nullptr, "model"},
      {"/model", {{"type", "BPE"}}, "model.vocab"},
      {"/model", {{"type", "BPE"}, {"vocab", Json::object()}}, "model.merges"},
  };
  ExpectRefused(good, refusals);
}

TEST(TokenizerTest, WhatIsNoTokenizerJsonIsRefused) {
  EXPECT_EQ(Tokenizer::FromJson(std::string(20, '[')).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Tokenizer::FromJson(std::string(kTokenizerJsonBytesMax + 1, ' ')).status().code(),
            absl::StatusCode::kResourceExhausted);
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

TEST(TokenizerTest, ModelsThatContradictThemselvesAreRefusedByName) {
  const BytePairModel good = SmallModel();
  const auto error = [&](const std::function<void(BytePairModel*)>& damage) {
    BytePairModel model = good;
    damage(&model);
    const absl::Status status = Tokenizer::Create(std::move(model)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  const int32_t entries = static_cast<int32_t>(good.vocabulary.size());
  EXPECT_THAT(error([](BytePairModel* model) { model->vocabulary[300] = model->vocabulary[299]; }),
              HasSubstr("entry is given twice"));
  EXPECT_THAT(error([](BytePairModel* model) { model->vocabulary[300] = ""; }),
              HasSubstr("not in the byte alphabet: vocab[300]"));
  EXPECT_THAT(error([](BytePairModel* model) { model->vocabulary[300] = "two words"; }),
              HasSubstr("not in the byte alphabet: vocab[300] two words"));
  EXPECT_THAT(error([](BytePairModel* model) {
                std::replace(model->vocabulary.begin(), model->vocabulary.end(), std::string("A"), std::string("AAAA"));
              }),
              HasSubstr("no ordinary entry for byte 65, whose stand-in is A"));
  for (const int32_t id : {-1, entries}) {
    EXPECT_THAT(error([id](BytePairModel* model) { model->merges[2].left = id; }),
                HasSubstr("part is not an entry: merges[2]"));
    EXPECT_THAT(error([id](BytePairModel* model) { model->merges[2].right = id; }),
                HasSubstr("part is not an entry: merges[2]"));
  }
  const auto add = [](AddedToken token) {
    return [token](BytePairModel* model) { model->added_tokens.push_back(token); };
  };
  EXPECT_THAT(error(add({0, "<|late|>"})), HasSubstr("ids must ascend: added_tokens[5] (<|late|>)"));
  EXPECT_THAT(error(add({entries + 1, "<|gap|>"})), HasSubstr("id must be " + std::to_string(entries)));
  EXPECT_THAT(error(add({entries, std::string(kAddedTokenBytesMax + 1, '<')})), HasSubstr("1 to 256 bytes"));
  EXPECT_THAT(error(add({entries, "\xFF"})), HasSubstr("bytes of UTF-8"));
  EXPECT_THAT(error(add({entries, good.added_tokens[0].content})), HasSubstr("content is given twice"));
  const std::string space = "Ġ";  // stands for a space, and is two bytes as a token
  const auto found = std::find(good.vocabulary.begin(), good.vocabulary.end(), space);
  ASSERT_NE(found, good.vocabulary.end());
  EXPECT_THAT(error(add({static_cast<int32_t>(found - good.vocabulary.begin()), space, false})),
              HasSubstr("the stand-in of other bytes"));
  const auto result_of = [&](const BytePairMerge& merge) {
    return good.vocabulary[static_cast<size_t>(merge.left)] + good.vocabulary[static_cast<size_t>(merge.right)];
  };
  size_t rank = 0;  // of a result that is its own text
  while (result_of(good.merges[rank]).find(space) != std::string::npos) ++rank;
  const auto result = std::find(good.vocabulary.begin(), good.vocabulary.end(), result_of(good.merges[rank]));
  EXPECT_THAT(error(add({static_cast<int32_t>(result - good.vocabulary.begin()), *result})),
              HasSubstr("result is a special token: merges[" + std::to_string(rank) + "]"));
}

// A token that people may write: an entry of the vocabulary in no alphabet of bytes.
TEST(TokenizerTest, AnAddedTokenThatIsNoWordOfBytesIsItsOwnText) {
  BytePairModel model = SmallModel();
  const int32_t id = static_cast<int32_t>(model.vocabulary.size());
  model.vocabulary.push_back("two words");
  model.added_tokens.push_back({id, "two words", /*special=*/false});
  const auto tokenizer = Tokenizer::Create(model);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<int32_t> ids = (*tokenizer)->EncodeOrdinary("the two words here");
  EXPECT_THAT(ids, testing::Contains(id));
  EXPECT_EQ(*(*tokenizer)->Decode(ids), "the two words here");
}

// More different words than the cache of one encoding takes.
TEST(TokenizerTest, AFullCacheOfWordsChangesNothing) {
  const auto tokenizer = SmallTokenizer();
  std::string text;
  std::vector<int32_t> expected;
  for (int i = 0; i < 70'000; ++i) {
    std::string word = " q";
    for (int rest = i; rest > 0; rest /= 20) word.push_back("bcdfghjklmnpqrstvwxz"[rest % 20]);
    text += word;
    const std::vector<int32_t> ids = tokenizer->EncodeOrdinary(word);
    expected.insert(expected.end(), ids.begin(), ids.end());
  }
  EXPECT_TRUE(tokenizer->EncodeOrdinary(text) == expected);
  EXPECT_TRUE(tokenizer->EncodeOrdinary(text + text).size() == 2 * expected.size());
}

TEST(TrainBytePairTest, TellsOfEveryMerge) {
  WordCounts counts(SplitPattern::kQwen2);
  for (const std::string& document : EnglishLikeText(RngKey{3}, 10)) counts.Add(document);
  size_t told = 0;
  const auto model = TrainBytePair(counts, {400, 2, {}, [&] { ++told; }});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(told, model->merges.size());
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
  BytePairOptions many = {300, 2, {}};
  for (size_t i = 0; i < kSpecialTokensMax; ++i) many.special_tokens.push_back("<|" + std::to_string(i) + "|>");
  EXPECT_TRUE(TrainBytePair(counts, many).ok());
  many.special_tokens.push_back("<|one more|>");
  EXPECT_THAT(std::string(TrainBytePair(counts, many).status().message()), HasSubstr("more special tokens than 4096"));
}

TEST(ChatFilesTest, ATokenizerWithoutChatTokensIsRefused) {
  const auto plain = *Tokenizer::Create(*TrainBytePair(WordCounts(SplitPattern::kQwen2), {256, 2, {}}));
  EXPECT_EQ(TokenizerConfigJson(*plain, 10).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(SpecialTokensMapJson(*plain).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace vlm::data
