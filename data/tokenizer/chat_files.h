// The files beside tokenizer.json that make a folder open with transformers' AutoTokenizer and
// apply_chat_template: ChatML with pictures.
#ifndef VLM_DATA_TOKENIZER_CHAT_FILES_H_
#define VLM_DATA_TOKENIZER_CHAT_FILES_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "data/tokenizer/tokenizer.h"

namespace vlm::data {

inline constexpr std::string_view kEndOfTextToken = "<|endoftext|>";  // ends a document; also the padding
inline constexpr std::string_view kChatStartToken = "<|im_start|>";
inline constexpr std::string_view kChatEndToken = "<|im_end|>";  // ends a turn, and so a generation
inline constexpr std::string_view kImageToken = "<|image|>";     // one per vision position

// The tokens a trained tokenizer reserves, in id order, followed by those of `extra` not among them.
std::vector<std::string> ChatSpecialTokens(const std::vector<std::string>& extra = {});

// The ChatML template (chat_template.jinja): "<|im_start|>ROLE\nCONTENT<|im_end|>\n" per message, no system
// message of its own, "<|im_start|>assistant\n" when a reply is wanted; content is a string or a list of
// {type: text, text} and {type: image} parts, an image part renders as one <|image|>. The content of
// assistant turns and their <|im_end|> stand in a generation block.
std::string_view ChatMlTemplateJinja();

// Contents of tokenizer_config.json and special_tokens_map.json. `context_tokens` is model_max_length.
// FAILED_PRECONDITION when the tokenizer lacks one of the four tokens above.
absl::StatusOr<std::string> TokenizerConfigJson(const Tokenizer& tokenizer, int64_t context_tokens);
absl::StatusOr<std::string> SpecialTokensMapJson(const Tokenizer& tokenizer);

}  // namespace vlm::data

#endif  // VLM_DATA_TOKENIZER_CHAT_FILES_H_
