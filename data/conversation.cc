#include "data/conversation.h"

#include <nlohmann/json.hpp>

namespace vlm::data {
namespace {

using Json = nlohmann::json;

absl::Status Wrong(const std::string& what) { return absl::InvalidArgumentError("conversation: " + what); }

absl::StatusOr<Role> ParseRole(const Json& message) {
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string()) return Wrong("a message has no role");
  const std::string& name = role->get_ref<const std::string&>();
  for (const Role role : {Role::kSystem, Role::kUser, Role::kAssistant}) {
    if (name == RoleName(role)) return role;
  }
  return Wrong("unknown role (known: system, user, assistant): " + name);
}

absl::StatusOr<ContentPart> ParsePart(const Json& part) {
  if (!part.is_object() || !part.contains("type") || !part["type"].is_string()) {
    return Wrong("a content part needs a type");
  }
  const std::string& type = part["type"].get_ref<const std::string&>();
  if (type == "image") return ContentPart{ContentPart::Kind::kImage, {}};
  if (type != "text") return Wrong("unknown content type (known: text, image): " + type);
  if (!part.contains("text") || !part["text"].is_string()) return Wrong("a text part has no text");
  return ContentPart{ContentPart::Kind::kText, part["text"].get<std::string>()};
}

absl::StatusOr<Message> ParseMessage(const Json& json) {
  if (!json.is_object()) return Wrong("a message is not an object");
  Message message;
  VLM_ASSIGN_OR_RETURN(message.role, ParseRole(json));
  const auto content = json.find("content");
  if (content == json.end()) return Wrong("a message has no content");
  if (content->is_string()) {
    message.content.push_back({ContentPart::Kind::kText, content->get<std::string>()});
    return message;
  }
  if (!content->is_array()) return Wrong("content is neither a string nor a list of parts");
  for (const Json& part : *content) {
    VLM_ASSIGN_OR_RETURN(ContentPart parsed, ParsePart(part));
    if (parsed.kind == ContentPart::Kind::kImage && message.role != Role::kUser) {
      return Wrong("an image stands outside a user message");
    }
    message.content.push_back(std::move(parsed));
  }
  return message;
}

// An optional system message, then user and assistant in turn, starting with the user.
absl::Status CheckTurns(const std::vector<Message>& messages) {
  size_t turn = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == Role::kSystem) {
      if (i != 0) return Wrong("a system message stands after the first message");
      continue;
    }
    const Role expected = turn++ % 2 == 0 ? Role::kUser : Role::kAssistant;
    if (messages[i].role != expected) {
      return Wrong("user and assistant do not take turns at message " + std::to_string(i));
    }
  }
  return turn == 0 ? Wrong("no user message") : absl::OkStatus();
}

}  // namespace

std::string_view RoleName(Role role) {
  static constexpr std::string_view kNames[] = {"system", "user", "assistant"};
  return kNames[static_cast<size_t>(role)];
}

int Conversation::images() const {
  int count = 0;
  for (const Message& message : messages) {
    for (const ContentPart& part : message.content) count += part.kind == ContentPart::Kind::kImage ? 1 : 0;
  }
  return count;
}

absl::StatusOr<Conversation> ParseConversation(std::string_view json, int images_present) {
  if (json.size() > kRecordBytesMax) return Wrong("record is larger than 4 MiB");
  const Json record = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (record.is_discarded() || !record.is_object()) return Wrong("record is not a JSON object");

  Conversation conversation;
  if (const auto meta = record.find("meta"); meta != record.end() && meta->is_object()) {
    for (const auto& [key, value] : meta->items()) {
      if (value.is_string()) conversation.meta[key] = value.get<std::string>();
    }
  }
  const auto messages = record.find("messages");
  if (messages == record.end()) {
    const auto text = record.find("text");
    if (text == record.end() || !text->is_string()) return Wrong("record has neither messages nor text");
    conversation.text = text->get<std::string>();
    if (conversation.text.empty()) return Wrong("text is empty");
  } else {
    if (!messages->is_array() || messages->empty()) return Wrong("messages is not a list with an entry");
    if (messages->size() > kMessagesMax) return Wrong("more than 1,024 messages");
    for (const Json& message : *messages) {
      VLM_ASSIGN_OR_RETURN(Message parsed, ParseMessage(message));
      conversation.messages.push_back(std::move(parsed));
    }
    VLM_RETURN_IF_ERROR(CheckTurns(conversation.messages));
  }
  const int marks = conversation.images();
  if (marks > static_cast<int>(kImagesMax)) return Wrong("more than 64 images");
  if (marks != images_present) {
    return Wrong("image marks and pictures differ: " + std::to_string(marks) + " marks, " +
                 std::to_string(images_present) + " pictures");
  }
  return conversation;
}

}  // namespace vlm::data
