// Equality with live runs of `tokenizers` and `transformers`, in one process of the reference for all.
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/file_system.h"
#include "corpora.h"
#include "data/tokenizer/chat_files.h"
#include "data/tokenizer/tokenizer.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace vlm::data {
namespace {

using Json = nlohmann::json;

constexpr RngKey kSeed{20261121};
constexpr int64_t kContextTokens = 512;

struct Training {
  std::string name;
  SplitPattern pattern;
  BytePairOptions options;
  Documents documents;
};

// Words of random Chinese characters: tens of thousands of pairs that come once or twice.
Documents ManyPairs() {
  Rng rng(kSeed.Derive("pairs"));
  Documents documents(40);
  for (std::string& document : documents) {
    for (int i = 0; i < 2000; ++i) {
      if (i % 8 == 0) document += ' ';
      AppendUtf8(0x4E00 + static_cast<uint32_t>(rng.Below(0x5000)), &document);
    }
  }
  return documents;
}

std::vector<Training> Trainings() {
  const std::vector<std::string> chat = ChatSpecialTokens();
  const Documents english = EnglishLikeText(kSeed.Derive("english"), 60);
  const Documents chinese = ChineseLikeText(kSeed.Derive("chinese"), 60);
  const Documents emoji = EmojiText(kSeed.Derive("emoji"), 40);
  Documents mixed = english;
  for (const Documents& more : {chinese, emoji, SourceCode()}) mixed.insert(mixed.end(), more.begin(), more.end());
  return {
      {"mixed gpt2", SplitPattern::kGpt2, {1200, 2, chat}, mixed},
      {"mixed gpt4", SplitPattern::kGpt4, {1200, 2, chat}, mixed},
      {"mixed qwen2", SplitPattern::kQwen2, {1200, 2, chat}, mixed},
      {"english", SplitPattern::kQwen2, {4000, 0, {}}, english},
      {"chinese", SplitPattern::kGpt4, {3000, 2, {}}, chinese},
      {"emoji", SplitPattern::kGpt2, {2000, 2, chat}, emoji},
      {"code", SplitPattern::kQwen2, {3000, 2, chat}, SourceCode()},
      {"high min_frequency", SplitPattern::kQwen2, {4000, 40, chat}, english},
      {"few letters, all merges", SplitPattern::kGpt4, {20000, 1, chat}, FewLetters(kSeed.Derive("few"), 40)},
      {"few letters again", SplitPattern::kGpt2, {1500, 2, {}}, FewLetters(kSeed.Derive("more"), 80)},
      {"ties", SplitPattern::kGpt2, {400, 1, {}}, {"ab cd ef gh dc ba hg fe abcd efgh", "zyx wvu xyz uvw"}},
      {"runs of one letter", SplitPattern::kGpt4, {300, 1, {}}, {"aaaaaaaaa aaaaa aaaa bbbbbbb abababa aaa aa a"}},
      {"nothing to merge", SplitPattern::kQwen2, {500, 2, chat}, {"a b c"}},
      {"empty corpus", SplitPattern::kQwen2, {500, 2, chat}, {""}},
      {"more pairs than the first table of counts", SplitPattern::kGpt2, {2500, 1, {}}, ManyPairs()},
      {"vocabulary smaller than the bytes", SplitPattern::kQwen2, {100, 2, chat}, english},
  };
}

std::unique_ptr<Tokenizer> Train(const Training& training) {
  WordCounts counts(training.pattern);
  for (const std::string& document : training.documents) counts.Add(document);
  auto model = TrainBytePair(counts, training.options);
  EXPECT_TRUE(model.ok()) << model.status();
  auto tokenizer = Tokenizer::Create(*std::move(model));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

void Write(const std::string& path, const std::string& contents) {
  const absl::Status written = WriteFileDurably(PosixFileSystem(), path, contents);
  ASSERT_TRUE(written.ok()) << written;
}

class TokenizerOracleTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = testing::TempDir() + "/tokenizer_oracle_" + std::to_string(getpid());
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_ + "/auto").ok());
    trainings_ = new std::vector<Training>(Trainings());
    texts_ = new Documents(NastyStrings(kSeed.Derive("texts"), 1500));
    for (const auto& more : {EnglishLikeText(kSeed.Derive("e"), 3), ChineseLikeText(kSeed.Derive("c"), 3),
                             EmojiText(kSeed.Derive("j"), 3), SourceCode(), FewLetters(kSeed.Derive("f"), 3)}) {
      texts_->insert(texts_->end(), more.begin(), more.end());
    }
    texts_->push_back(std::string(3000, 'a') + std::string(500, ' ') + std::string(300, '\n') + "b");
    Json request = {{"trainings", Json::array()},
                    {"texts", *texts_},
                    {"folder", folder_ + "/auto"},
                    {"tokenizers", Json::array()},
                    {"messages", Messages()}};
    for (const Training& training : *trainings_) {
      const Json regex =
          training.pattern == SplitPattern::kGpt2 ? Json() : Json(std::string(PatternRegex(training.pattern)));
      request["trainings"].push_back({{"name", training.name},
                                      {"regex", regex},
                                      {"vocab_size", training.options.vocab_size},
                                      {"min_frequency", training.options.min_frequency},
                                      {"special", training.options.special_tokens},
                                      {"documents", training.documents}});
    }
    for (int i = 0; i < 3; ++i) {  // the mixed ones, one of each pattern
      ours_[i] = Train((*trainings_)[i]).release();
      request["tokenizers"].push_back(FileName(i));
      Write(folder_ + "/" + FileName(i), ours_[i]->ToJson());
    }
    Write(folder_ + "/auto/tokenizer.json", ours_[2]->ToJson());
    Write(folder_ + "/auto/tokenizer_config.json", *TokenizerConfigJson(*ours_[2], kContextTokens));
    Write(folder_ + "/auto/special_tokens_map.json", *SpecialTokensMapJson(*ours_[2]));
    Write(folder_ + "/request.json", request.dump());
    const std::string command =
        std::string(VLM_ORACLE_PYTHON) + " " + VLM_SOURCE_DIR + "/tests/unit/tokenizer/tokenizer_oracle.py " + folder_;
    ASSERT_EQ(std::system(command.c_str()), 0) << "the reference run failed; scripts/setup installs its environment";
    const auto answer = ReadFile(PosixFileSystem(), folder_ + "/answer.json", 1 << 28);
    ASSERT_TRUE(answer.ok()) << answer.status();
    answer_ = new Json(Json::parse(*answer));
  }

  static void TearDownTestSuite() {
    (void)RemoveTree(PosixFileSystem(), folder_);
    delete answer_;
    delete texts_;
    delete trainings_;
    for (Tokenizer* tokenizer : ours_) delete tokenizer;
  }

  static std::string FileName(int i) { return "ours_" + std::to_string(i) + ".json"; }

  static Json Messages() {
    return {
        {{"role", "user"}, {"content", {{{"type", "image"}}, {{"type", "text"}, {"text", "What's the colour?\n"}}}}},
        {{"role", "assistant"}, {"content", " red 12"}},
        {{"role", "user"}, {"content", "and now "}}};
  }

  void TrainingMakesTheSameEntriesAndMerges();
  void OurFilesEncodeAndDecodeEquallyThere();
  void AutoTokenizerOpensTheFolder();
  void ChatTemplateRendersChatMlAndMarksAssistantTurns();

  static inline std::string folder_;
  static inline std::vector<Training>* trainings_ = nullptr;
  static inline Documents* texts_ = nullptr;
  static inline Tokenizer* ours_[3] = {};
  static inline Json* answer_ = nullptr;
};

void TokenizerOracleTest::TrainingMakesTheSameEntriesAndMerges() {
  ASSERT_EQ((*answer_)["trainings"].size(), trainings_->size());
  for (size_t i = 0; i < trainings_->size(); ++i) {
    const Training& training = (*trainings_)[i];
    SCOPED_TRACE(training.name);
    const std::string theirs_json = (*answer_)["trainings"][i]["json"].get<std::string>();
    const auto ours = Train(training);
    const Json theirs = Json::parse(theirs_json)["model"];
    EXPECT_EQ(ours->model().vocabulary.size(), theirs["vocab"].size());
    for (size_t id = 0; id < ours->model().vocabulary.size(); ++id) {
      const std::string& entry = ours->model().vocabulary[id];
      ASSERT_TRUE(theirs["vocab"].contains(entry)) << entry;
      ASSERT_EQ(theirs["vocab"][entry].get<size_t>(), id) << entry;
    }
    ASSERT_EQ(ours->model().merges.size(), theirs["merges"].size());
    for (size_t rank = 0; rank < ours->model().merges.size(); ++rank) {
      const BytePairMerge& merge = ours->model().merges[rank];
      const Json pair = {ours->model().vocabulary[merge.left], ours->model().vocabulary[merge.right]};
      ASSERT_EQ(pair, theirs["merges"][rank]) << "rank " << rank;
    }
    // And their file opens here as the same model.
    const auto read = Tokenizer::FromJson(theirs_json);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ((*read)->ToJson(), ours->ToJson());
  }
}

void TokenizerOracleTest::OurFilesEncodeAndDecodeEquallyThere() {
  for (int i = 0; i < 3; ++i) {
    const Json& theirs = (*answer_)["encodings"][FileName(i)];
    SCOPED_TRACE((*trainings_)[i].name);
    for (size_t t = 0; t < texts_->size(); ++t) {
      const std::string& text = (*texts_)[t];
      std::vector<size_t> lengths;
      WordSplitter splitter(ours_[i]->model().pattern, text);
      std::string_view word;
      while (splitter.Next(&word)) {
        lengths.push_back(0);
        for (char byte : word) lengths.back() += (static_cast<uint8_t>(byte) & 0xC0) != 0x80;
      }
      ASSERT_EQ(lengths, theirs["lengths"][t].get<std::vector<size_t>>()) << "words of text " << t << ": " << text;
      const std::vector<int32_t> ids = ours_[i]->EncodeWithSpecial(text);
      ASSERT_EQ(ids, theirs["special"][t].get<std::vector<int32_t>>()) << "text " << t << ": " << text;
      ASSERT_EQ(ours_[i]->EncodeOrdinary(text), theirs["ordinary"][t].get<std::vector<int32_t>>()) << text;
      ASSERT_EQ(*ours_[i]->Decode(ids), theirs["decoded"][t].get<std::string>());
      ASSERT_EQ(*ours_[i]->Decode(ids), text);
    }
  }
}

void TokenizerOracleTest::AutoTokenizerOpensTheFolder() {
  const Json& theirs = (*answer_)["auto"];
  for (size_t t = 0; t < texts_->size(); ++t) {
    ASSERT_EQ(ours_[2]->EncodeWithSpecial((*texts_)[t]), theirs["ids"][t].get<std::vector<int32_t>>()) << (*texts_)[t];
    ASSERT_EQ(theirs["decoded"][t].get<std::string>(), (*texts_)[t]);
  }
  EXPECT_EQ(theirs["size"], ours_[2]->vocab_size());
  EXPECT_EQ(theirs["eos"], "<|im_end|>");
  EXPECT_EQ(theirs["pad"], "<|endoftext|>");
  EXPECT_EQ(theirs["image"], "<|image|>");
  EXPECT_EQ(theirs["max_length"], kContextTokens);
}

void TokenizerOracleTest::ChatTemplateRendersChatMlAndMarksAssistantTurns() {
  const Json& theirs = (*answer_)["auto"];
  const std::string before = "<|im_start|>user\n<|image|>What's the colour?\n<|im_end|>\n<|im_start|>assistant\n";
  const std::string reply = " red 12<|im_end|>";
  const std::string after = "\n<|im_start|>user\nand now <|im_end|>\n";
  EXPECT_EQ(theirs["chat"].get<std::vector<int32_t>>(),
            ours_[2]->EncodeWithSpecial(before + reply + after + "<|im_start|>assistant\n"));
  std::vector<int> mask(ours_[2]->EncodeWithSpecial(before).size(), 0);
  mask.insert(mask.end(), ours_[2]->EncodeWithSpecial(reply).size(), 1);
  mask.insert(mask.end(), ours_[2]->EncodeWithSpecial(after).size(), 0);
  EXPECT_EQ(theirs["mask"].get<std::vector<int>>(), mask);
}

// One case: CTest runs each in a process of its own, and so would start the reference for each.
TEST_F(TokenizerOracleTest, EqualsTheReference) {
  TrainingMakesTheSameEntriesAndMerges();
  OurFilesEncodeAndDecodeEquallyThere();
  AutoTokenizerOpensTheFolder();
  ChatTemplateRendersChatMlAndMarksAssistantTurns();
}

TEST(UnicodeTableTest, IsThatOfTheReference) {
  const std::string command = std::string(VLM_SOURCE_DIR) + "/scripts/generate-unicode-tables --check";
  EXPECT_EQ(std::system(command.c_str()), 0) << "run scripts/generate-unicode-tables";
}

}  // namespace
}  // namespace vlm::data
