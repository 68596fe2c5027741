#include "data/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vlm::data {
namespace {

using ::testing::HasSubstr;

TEST(ConversationTest, ReadsMessagesTextAndMeta) {
  const absl::StatusOr<Conversation> parsed = ParseConversation(
      R"({"messages":[{"role":"system","content":"Be brief."},
          {"role":"user","content":[{"type":"image"},{"type":"text","text":"Which color?"}]},
          {"role":"assistant","content":"red"}],"meta":{"question_kind":"color","n":3}})",
      1);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->messages.size(), 3u);
  EXPECT_EQ(parsed->images(), 1);
  EXPECT_EQ(parsed->messages[1].content[1].text, "Which color?");
  EXPECT_EQ(parsed->meta.at("question_kind"), "color");

  const absl::StatusOr<Conversation> text = ParseConversation(R"({"text":"a red circle"})", 0);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(text->text, "a red circle");
}

struct BadCase {
  const char* json;
  int images;
  const char* message;
};

class BadConversationTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadConversationTest, IsRefusedWithTheReason) {
  const absl::StatusOr<Conversation> parsed = ParseConversation(GetParam().json, GetParam().images);
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadConversationTest,
    ::testing::Values(
        BadCase{"{", 0, "not a JSON object"}, BadCase{"[]", 0, "not a JSON object"},
        BadCase{"{}", 0, "neither messages nor text"}, BadCase{R"({"text":""})", 0, "text is empty"},
        BadCase{R"({"text":"a"})", 1, "0 marks, 1 pictures"}, BadCase{R"({"messages":[]})", 0, "not a list"},
        BadCase{R"({"messages":[{"role":"robot","content":"a"}]})", 0, "unknown role"},
        BadCase{R"({"messages":[{"role":"assistant","content":"a"}]})", 0, "take turns"},
        BadCase{R"({"messages":[{"role":"system","content":"a"}]})", 0, "no user message"},
        BadCase{R"({"messages":[{"role":"user"}]})", 0, "no content"},
        BadCase{R"({"messages":["a"]})", 0, "not an object"},
        BadCase{R"({"messages":[{"content":"a"}]})", 0, "no role"},
        BadCase{R"({"messages":[{"role":7,"content":"a"}]})", 0, "no role"},
        BadCase{R"({"messages":[{"role":"user","content":"a"},{"role":"system","content":"b"}]})", 0, "stands after"},
        BadCase{R"({"messages":[{"role":"user","content":7}]})", 0, "neither a string nor a list"},
        BadCase{R"({"messages":[{"role":"user","content":["a"]}]})", 0, "needs a type"},
        BadCase{R"({"messages":[{"role":"user","content":[{"type":"video"}]}]})", 0, "unknown content type"},
        BadCase{R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})", 0, "no text"},
        BadCase{R"({"messages":[{"role":"user","content":[{"type":"image"}]}]})", 0, "1 marks, 0 pictures"},
        BadCase{R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":[{"type":"image"}]}]})", 1,
                "outside a user message"}));

// A list of `count` entries, comma between.
std::string Repeated(const std::string& entry, size_t count) {
  std::string list = entry;
  for (size_t i = 1; i < count; ++i) list += "," + entry;
  return list;
}

TEST(ConversationTest, RecordsMessagesAndImagesAreBounded) {
  const auto text_record = [](size_t bytes) { return R"({"text":")" + std::string(bytes - 11, 'a') + "\"}"; };
  EXPECT_TRUE(ParseConversation(text_record(kRecordBytesMax), 0).ok());
  EXPECT_THAT(std::string(ParseConversation(text_record(kRecordBytesMax + 1), 0).status().message()),
              HasSubstr("larger than 4 MiB"));

  const std::string turns = R"({"role":"user","content":"q"},{"role":"assistant","content":"a"})";
  const auto conversation = [&](size_t pairs, const std::string& more) {
    return R"({"messages":[)" + Repeated(turns, pairs) + more + "]}";
  };
  EXPECT_TRUE(ParseConversation(conversation(kMessagesMax / 2, ""), 0).ok());
  EXPECT_THAT(
      std::string(
          ParseConversation(conversation(kMessagesMax / 2, R"(,{"role":"user","content":"q"})"), 0).status().message()),
      HasSubstr("more than 1,024 messages"));

  const auto album = [&](size_t images) {
    return R"({"messages":[{"role":"user","content":[)" + Repeated(R"({"type":"image"})", images) + "]}]}";
  };
  EXPECT_TRUE(ParseConversation(album(kImagesMax), kImagesMax).ok());
  EXPECT_THAT(std::string(ParseConversation(album(kImagesMax + 1), kImagesMax + 1).status().message()),
              HasSubstr("more than 64 images"));
}

}  // namespace
}  // namespace vlm::data
