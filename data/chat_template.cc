#include "data/chat_template.h"

#include <optional>
#include <string>
#include <utility>

#include "data/tokenizer/chat_files.h"

namespace vlm::data {
namespace {

absl::StatusOr<int32_t> RequireToken(const Tokenizer& tokenizer, std::string_view token, std::string_view used_by) {
  const std::optional<int32_t> id = tokenizer.TokenId(token);
  if (id.has_value()) return *id;
  return absl::NotFoundError("tokenizer lacks a token that template " + std::string(used_by) +
                             " needs; name it in tokenizer.special of the stage that trains it: " + std::string(token));
}

class ChatMl final : public ChatTemplate {
 public:
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Create(const Tokenizer* tokenizer) {
    auto chat = std::unique_ptr<ChatMl>(new ChatMl(tokenizer));
    VLM_ASSIGN_OR_RETURN(chat->start_, RequireToken(*tokenizer, kChatStartToken, "chatml"));
    VLM_ASSIGN_OR_RETURN(chat->end_, RequireToken(*tokenizer, kChatEndToken, "chatml"));
    VLM_ASSIGN_OR_RETURN(chat->end_of_text_, RequireToken(*tokenizer, kEndOfTextToken, "chatml"));
    VLM_ASSIGN_OR_RETURN(chat->image_, RequireToken(*tokenizer, kImageToken, "chatml"));
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
    const bool target = message.role == Role::kAssistant;
    Ids({start_}, false, sample);
    Text(std::string(RoleName(message.role)) + "\n", false, sample);
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

// LLaVA's first stage ("plain"): pictures, caption, newline; no roles. Text alone is as in chatml.
class Plain final : public ChatTemplate {
 public:
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Create(const Tokenizer* tokenizer) {
    auto plain = std::unique_ptr<Plain>(new Plain(tokenizer));
    VLM_ASSIGN_OR_RETURN(plain->end_of_text_, RequireToken(*tokenizer, kEndOfTextToken, "plain"));
    VLM_ASSIGN_OR_RETURN(plain->image_, RequireToken(*tokenizer, kImageToken, "plain"));
    plain->newline_ = tokenizer->EncodeOrdinary("\n");
    return std::unique_ptr<ChatTemplate>(std::move(plain));
  }

  std::string_view name() const override { return "plain"; }
  int32_t stop_id() const override { return newline_.back(); }

  absl::StatusOr<Sample> Render(const Conversation& conversation, const RenderOptions& options) const override {
    Sample sample;
    if (conversation.messages.empty()) {
      std::vector<int32_t> ids = tokenizer_->EncodeOrdinary(conversation.text);
      ids.push_back(end_of_text_);
      sample.parts.push_back(TextRun{std::move(ids), true});
    } else {
      VLM_RETURN_IF_ERROR(RenderCaption(conversation, options, &sample));
    }
    if (!options.generation_prompt && sample.targets() == 0) {
      return absl::InvalidArgumentError("sample has no target: there is no caption");
    }
    return sample;
  }

 private:
  explicit Plain(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  // The user's words are left out, as LLaVA does; only the pictures of a single question stay.
  absl::Status RenderCaption(const Conversation& conversation, const RenderOptions& options, Sample* sample) const {
    if (conversation.messages.size() > 2) {
      return absl::InvalidArgumentError("template plain takes one user and one assistant turn");
    }
    int32_t image = 0;
    for (const Message& message : conversation.messages) {
      for (const ContentPart& part : message.content) {
        if (part.kind == ContentPart::Kind::kImage) {
          sample->parts.push_back(ImageSpan{image++, options.image_tokens, image_});
        } else if (message.role == Role::kAssistant && !options.generation_prompt) {
          std::vector<int32_t> ids = tokenizer_->EncodeOrdinary(part.text);
          ids.insert(ids.end(), newline_.begin(), newline_.end());
          sample->parts.push_back(TextRun{std::move(ids), true});
        }
      }
    }
    if (image == 0) {
      return absl::InvalidArgumentError(
          "template plain takes pictures with captions, and this conversation has no picture: use template chatml");
    }
    return absl::OkStatus();
  }

  const Tokenizer* const tokenizer_;
  int32_t end_of_text_ = 0, image_ = 0;
  std::vector<int32_t> newline_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> NewChatTemplate(std::string_view name, const Tokenizer* tokenizer) {
  if (name == "chatml") return ChatMl::Create(tokenizer);
  if (name == "plain") return Plain::Create(tokenizer);
  return absl::InvalidArgumentError("unknown chat template (known: chatml, plain): " + std::string(name));
}

}  // namespace vlm::data
