#include "data/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/chat_template.h"
#include "data/loader.h"
#include "tests/unit/data/shapes_tokenizer.h"

namespace vlm::data {
namespace {

class ChatMlTest : public ::testing::Test {
 protected:
  Sample Render(const Conversation& conversation, RenderOptions options = {.image_tokens = 4}) {
    absl::StatusOr<Sample> sample = template_->Render(conversation, options);
    VLM_CHECK(sample.ok(), std::string(sample.status().message()));
    return *std::move(sample);
  }

  // The text of a sample with its targets in brackets and pictures as "{n}".
  std::string Show(const Sample& sample) {
    std::string text;
    for (const auto& part : sample.parts) {
      if (const auto* span = std::get_if<ImageSpan>(&part)) {
        text += "{" + std::to_string(span->tokens) + "}";
        continue;
      }
      const TextRun& run = std::get<TextRun>(part);
      const std::string words = *tokenizer_->Decode(run.ids);
      text += run.target ? "[" + words + "]" : words;
    }
    return text;
  }

  std::unique_ptr<Tokenizer> tokenizer_ = TrainSmallTokenizer();
  std::unique_ptr<ChatTemplate> template_ = *NewChatTemplate("chatml", tokenizer_.get());
};

const Conversation kQuestion = {
    {{Role::kUser, {{ContentPart::Kind::kImage, ""}, {ContentPart::Kind::kText, "which color?"}}},
     {Role::kAssistant, {{ContentPart::Kind::kText, "red"}}}},
    "",
    {}};

TEST_F(ChatMlTest, TargetsStandOnAssistantTurnsOnly) {
  EXPECT_EQ(Show(Render(kQuestion)),
            "<|im_start|>user\n{4}which color?<|im_end|>\n<|im_start|>assistant\n[red<|im_end|>]\n");
}

TEST_F(ChatMlTest, EverythingButTheFirstIdOfAPlainTextIsPredicted) {
  const Sample sample = Render({{}, "the red circle", {}});
  EXPECT_EQ(Show(sample), "[the red circle<|endoftext|>]");
  EXPECT_EQ(sample.targets(), sample.tokens() - 1);
}

TEST_F(ChatMlTest, GenerationPromptOpensTheAnswer) {
  Conversation question = kQuestion;
  question.messages.pop_back();
  EXPECT_EQ(Show(Render(question, {.image_tokens = 4, .generation_prompt = true})),
            "<|im_start|>user\n{4}which color?<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ChatMlTest, ASampleWithoutTargetIsRefused) {
  Conversation question = kQuestion;
  question.messages.pop_back();
  EXPECT_EQ(template_->Render(question, {.image_tokens = 4}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ChatMlTest, TextCannotInjectControlTokens) {
  const Sample sample = Render({{}, "<|im_end|><|image|>", {}});
  const int32_t end = *tokenizer_->TokenId("<|im_end|>");
  for (const int32_t id : std::get<TextRun>(sample.parts[0]).ids) EXPECT_NE(id, end);
  EXPECT_EQ(sample.images(), 0);
}

TEST_F(ChatMlTest, TruncationNeverCutsAPicture) {
  const Sample whole = Render(kQuestion);
  const int64_t before_image = static_cast<int64_t>(std::get<TextRun>(whole.parts[0]).ids.size());
  for (int64_t limit = 0; limit <= whole.tokens(); ++limit) {
    Sample cut = whole;
    const int64_t dropped = Truncate(&cut, limit);
    EXPECT_EQ(cut.tokens() + dropped, whole.tokens());
    EXPECT_LE(cut.tokens(), limit);
    EXPECT_EQ(cut.images(), limit >= before_image + 4 ? 1 : 0) << limit;
    for (const auto& part : cut.parts) {
      if (const auto* span = std::get_if<ImageSpan>(&part)) EXPECT_EQ(span->tokens, 4);
    }
  }
}

TEST_F(ChatMlTest, LayoutShiftsTargetsByOneWithinADocument) {
  HostMicroBatch batch;
  const Sample sample = Render(kQuestion);
  AppendSample(sample, &batch);
  AppendSample(Render({{}, "the red", {}}), &batch);
  ASSERT_EQ(batch.document_starts.size(), 3u);
  EXPECT_EQ(batch.document_starts[1], sample.tokens());
  EXPECT_EQ(batch.positions_N[static_cast<size_t>(sample.tokens())], 0);
  EXPECT_EQ(batch.image_row_V.size(), 4u);
  EXPECT_EQ(batch.images, 1);
  for (size_t k = 0; k < batch.target_id_K.size(); ++k) {
    // The target is the id one place later, and both stand in one document.
    const size_t position = static_cast<size_t>(batch.target_index_K[k]);
    EXPECT_EQ(batch.ids_N[position + 1], batch.target_id_K[k]);
    EXPECT_NE(static_cast<int64_t>(position) + 1, batch.document_starts[1]);
  }
  EXPECT_EQ(static_cast<double>(batch.target_id_K.size()), batch.target_weight);
}

TEST_F(ChatMlTest, PlainIsPictureCaptionNewline) {
  template_ = *NewChatTemplate("plain", tokenizer_.get());
  EXPECT_EQ(Show(Render(kQuestion)), "{4}[red\n]");
  Conversation long_one = kQuestion;
  long_one.messages.push_back(kQuestion.messages[0]);
  EXPECT_FALSE(template_->Render(long_one, {.image_tokens = 4}).ok());
}

TEST_F(ChatMlTest, PlainRefusesAConversationWithoutPictures) {
  template_ = *NewChatTemplate("plain", tokenizer_.get());
  Conversation words = kQuestion;
  std::erase_if(words.messages[0].content,
                [](const ContentPart& part) { return part.kind == ContentPart::Kind::kImage; });
  EXPECT_THAT(std::string(template_->Render(words, {.image_tokens = 4}).status().message()),
              ::testing::HasSubstr("use template chatml"));
}

TEST(NewChatTemplateTest, NamesWhatIsUnknown) {
  const std::unique_ptr<Tokenizer> tokenizer = TrainSmallTokenizer();
  const absl::Status status = NewChatTemplate("vicuna", tokenizer.get()).status();
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("vicuna"));
}

TEST(NewChatTemplateTest, NamesTheTokenThatTheTokenizerLacks) {
  for (const std::string& lacking : ChatSpecialTokens()) {
    std::vector<std::string> special = ChatSpecialTokens();
    std::erase(special, lacking);
    const auto tokenizer = *Tokenizer::Create(
        *TrainBytePair(WordCounts(SplitPattern::kQwen2), {.vocab_size = 300, .special_tokens = special}));
    for (const std::string name : {"chatml", "plain"}) {
      const absl::Status status = NewChatTemplate(name, tokenizer.get()).status();
      const bool has_turns = name == "chatml";
      if (!has_turns && (lacking == kChatStartToken || lacking == kChatEndToken)) {
        EXPECT_TRUE(status.ok()) << status;
        continue;
      }
      EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << name;
      EXPECT_THAT(std::string(status.message()),
                  ::testing::AllOf(::testing::HasSubstr("template " + name), ::testing::HasSubstr(": " + lacking)));
    }
  }
}

}  // namespace
}  // namespace vlm::data
