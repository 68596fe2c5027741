// What a data file says, before tokenization: messages with text and pictures, or plain text.
#ifndef VLM_DATA_CONVERSATION_H_
#define VLM_DATA_CONVERSATION_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace vlm::data {

enum class Role { kSystem, kUser, kAssistant };
// "system", "user", "assistant": as files and templates name it.
std::string_view RoleName(Role role);

struct ContentPart {
  enum class Kind { kText, kImage } kind = Kind::kText;
  std::string text;  // kText only
};

struct Message {
  Role role = Role::kUser;
  std::vector<ContentPart> content;
};

// Either messages, or (messages empty) one plain text for pretraining.
struct Conversation {
  std::vector<Message> messages;
  std::string text;
  std::map<std::string, std::string> meta;  // string fields of "meta"; free for tasks, e.g. question_kind
  int images() const;                       // image marks, in order of appearance
};

// Limits on one record, checked before and while parsing.
inline constexpr size_t kRecordBytesMax = 4 << 20;
inline constexpr size_t kMessagesMax = 1024;
inline constexpr size_t kImagesMax = 64;

// One JSON record: {"messages": [{"role", "content": string or [{"type": "text", "text"} | {"type": "image"}]}],
// "meta"?: {...}} (OpenAI messages), or {"text": "..."}. `images_present` is how many pictures come with the
// record. INVALID_ARGUMENT says what is wrong: not JSON, an unknown role or content type, no message, no text,
// roles out of order, or a number of image marks other than `images_present`.
absl::StatusOr<Conversation> ParseConversation(std::string_view json, int images_present);

}  // namespace vlm::data

#endif  // VLM_DATA_CONVERSATION_H_
