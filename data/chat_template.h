// From a conversation to a typed sample. The loss mask is made here, while rendering, and nowhere else.
#ifndef VLM_DATA_CHAT_TEMPLATE_H_
#define VLM_DATA_CHAT_TEMPLATE_H_

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "data/conversation.h"
#include "data/sample.h"
#include "data/tokenizer/tokenizer.h"

namespace vlm::data {

struct RenderOptions {
  int32_t image_tokens = 0;        // positions per picture
  bool generation_prompt = false;  // end with an opened assistant turn; then no target is needed
};

// Immutable; thread-safe.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  virtual std::string_view name() const = 0;
  // INVALID_ARGUMENT when nothing is left to predict (and no generation prompt was asked for), or when the
  // conversation's form does not fit the template.
  virtual absl::StatusOr<Sample> Render(const Conversation& conversation, const RenderOptions& options) const = 0;
  // The id after which generation stops.
  virtual int32_t stop_id() const = 0;
};

// "chatml": <|im_start|>role\n ... <|im_end|>\n, targets on each assistant turn's content and its <|im_end|>;
// a conversation of plain text is the text and <|endoftext|>, all of it target. "plain": pictures, caption, newline
// (LLaVA's first stage), targets on caption and newline; one question and answer. `tokenizer` must outlive the
// template. NOT_FOUND when the tokenizer lacks a chat token; INVALID_ARGUMENT for an unknown name.
absl::StatusOr<std::unique_ptr<ChatTemplate>> NewChatTemplate(std::string_view name, const Tokenizer* tokenizer);

}  // namespace vlm::data

#endif  // VLM_DATA_CHAT_TEMPLATE_H_
