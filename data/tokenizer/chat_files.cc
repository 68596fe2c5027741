#include "data/tokenizer/chat_files.h"

#include <algorithm>

#include "nlohmann/json.hpp"

namespace vlm::data {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr std::string_view kChatMl =
    "{%- macro render(content) -%}\n"
    "{%- if content is string -%}{{- content -}}\n"
    "{%- else -%}\n"
    "{%- for part in content -%}\n"
    "{%- if part.type == 'image' -%}{{- '<|image|>' -}}\n"
    "{%- elif part.type == 'text' -%}{{- part.text -}}\n"
    "{%- else -%}{{- raise_exception('content parts are of type text or image') -}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- endif -%}\n"
    "{%- endmacro -%}\n"
    "{%- for message in messages -%}\n"
    "{{- '<|im_start|>' + message.role + '\\n' -}}\n"
    "{%- if message.role == 'assistant' -%}\n"
    "{%- generation -%}{{- render(message.content) + '<|im_end|>' -}}{%- endgeneration -%}\n"
    "{%- else -%}{{- render(message.content) + '<|im_end|>' -}}\n"
    "{%- endif -%}\n"
    "{{- '\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}\n";

constexpr std::string_view kChatTokens[] = {kEndOfTextToken, kChatStartToken, kChatEndToken, kImageToken};

absl::Status CheckChatTokens(const Tokenizer& tokenizer) {
  for (std::string_view token : kChatTokens) {
    if (!tokenizer.TokenId(token).has_value()) {
      return absl::FailedPreconditionError("tokenizer lacks a chat token; train it with this special token: " +
                                           std::string(token));
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> SpecialContents(const Tokenizer& tokenizer) {
  std::vector<std::string> contents;
  for (const AddedToken& token : tokenizer.model().added_tokens) {
    if (token.special) contents.push_back(token.content);
  }
  return contents;
}

}  // namespace

std::vector<std::string> ChatSpecialTokens(const std::vector<std::string>& extra) {
  std::vector<std::string> tokens(std::begin(kChatTokens), std::end(kChatTokens));
  for (const std::string& token : extra) {
    if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
  }
  return tokens;
}

std::string_view ChatMlTemplateJinja() { return kChatMl; }

absl::StatusOr<std::string> TokenizerConfigJson(const Tokenizer& tokenizer, int64_t context_tokens) {
  VLM_RETURN_IF_ERROR(CheckChatTokens(tokenizer));
  OrderedJson decoder = OrderedJson::object();
  for (const AddedToken& token : tokenizer.model().added_tokens) {
    decoder[std::to_string(token.id)] = {{"content", token.content},       {"lstrip", false},
                                         {"normalized", token.normalized}, {"rstrip", false},
                                         {"single_word", false},           {"special", token.special}};
  }
  OrderedJson config = {
      {"tokenizer_class", "PreTrainedTokenizerFast"},
      {"added_tokens_decoder", decoder},
      {"additional_special_tokens", SpecialContents(tokenizer)},
      {"bos_token", nullptr},
      {"eos_token", kChatEndToken},
      {"pad_token", kEndOfTextToken},
      {"unk_token", nullptr},
      {"image_token", kImageToken},
      {"extra_special_tokens", {{"image_token", kImageToken}}},
      {"clean_up_tokenization_spaces", false},
      {"model_max_length", context_tokens},
      {"chat_template", kChatMl},
  };
  return config.dump(2) + "\n";
}

absl::StatusOr<std::string> SpecialTokensMapJson(const Tokenizer& tokenizer) {
  VLM_RETURN_IF_ERROR(CheckChatTokens(tokenizer));
  const OrderedJson map = {
      {"additional_special_tokens", SpecialContents(tokenizer)},
      {"eos_token", kChatEndToken},
      {"pad_token", kEndOfTextToken},
      {"image_token", kImageToken},
  };
  return map.dump(2) + "\n";
}

}  // namespace vlm::data
