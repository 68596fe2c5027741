#include "data/chat_template.h"

#include <optional>
#include <string>
#include <utility>

#include "data/tokenizer/chat_files.h"

namespace vlm::data {
namespace {

class ChatMl final : public ChatTemplate {
 public:
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Create(const Tokenizer* tokenizer) {
    auto chat = std::unique_ptr<ChatMl>(new ChatMl(tokenizer));
    for (const auto& [token, id] : {std::pair{kChatStartToken, &chat->start_}, {kChatEndToken, &chat->end_},
                                    {kEndOfTextToken, &chat->end_of_text_}, {kImageToken, &chat->image_}}) {
      const std::optional<int32_t> found = tokenizer->TokenId(token);
      if (!found.has_value()) {
        return absl::NotFoundError("tokenizer lacks a token that chatml needs: " + std::string(token));
      }
      *id = *found;
    }
    return std::unique_ptr<ChatTemplate>(std::move(chat));
  }

  std::string_view name() const override { return "chatml"; }
  int32_t stop_id() const override { return end_; }

  absl::StatusOr<Sample> Render(const Conversation& conversation, const RenderOptions& options) const override {
    Sample sample;
    if (conversation.messages.empty()) {
      Text(conversation.text, /*target=*/true, &sample);
      Ids({end_of_text_}, /*target=*/true, &sample);
    } else {
      int32_t image = 0;
      for (const Message& message : conversation.messages) RenderMessage(message, options, &image, &sample);
    }
    if (options.generation_prompt) {
      Ids({start_}, false, &sample);
      Text("assistant\n", false, &sample);
    } else if (sample.targets() == 0) {
      return absl::InvalidArgumentError("sample has no target: the conversation holds no assistant turn");
    }
    return sample;
  }

 private:
  explicit ChatMl(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  void RenderMessage(const Message& message, const RenderOptions& options, int32_t* image, Sample* sample) const {
    static constexpr std::string_view kRoles[] = {"system\n", "user\n", "assistant\n"};
    const bool target = message.role == Role::kAssistant;
    Ids({start_}, false, sample);
    Text(kRoles[static_cast<int>(message.role)], false, sample);
    for (const ContentPart& part : message.content) {
      if (part.kind == ContentPart::Kind::kText) {
        Text(part.text, target, sample);
      } else {
        sample->parts.push_back(ImageSpan{(*image)++, options.image_tokens, image_});
      }
    }
    Ids({end_}, target, sample);
    Text("\n", false, sample);
  }

  // What a person wrote is encoded without special tokens: text cannot inject a turn or a picture.
  void Text(std::string_view text, bool target, Sample* sample) const {
    Ids(tokenizer_->EncodeOrdinary(text), target, sample);
  }

  static void Ids(const std::vector<int32_t>& ids, bool target, Sample* sample) {
    auto* last = sample->parts.empty() ? nullptr : std::get_if<TextRun>(&sample->parts.back());
    if (last == nullptr || last->target != target) {
      sample->parts.push_back(TextRun{{}, target});
      last = &std::get<TextRun>(sample->parts.back());
    }
    last->ids.insert(last->ids.end(), ids.begin(), ids.end());
  }

  const Tokenizer* const tokenizer_;
  int32_t start_ = 0, end_ = 0, end_of_text_ = 0, image_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> NewChatTemplate(std::string_view name, const Tokenizer* tokenizer) {
  if (name == "chatml") return ChatMl::Create(tokenizer);
  return absl::InvalidArgumentError("unknown chat template (known: chatml): " + std::string(name));
}

}  // namespace vlm::data
