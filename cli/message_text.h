// Messages as text for programs: JSON by Protobuf's own mapping with the names of the .proto files, YAML of the same.
#ifndef VLM_CLI_MESSAGE_TEXT_H_
#define VLM_CLI_MESSAGE_TEXT_H_

#include <google/protobuf/message.h>

#include <string>
#include <string_view>

#include "base/status.h"

namespace vlm::cli {

enum class OutputFormat { kTable, kJson, kYaml };

// JSON, indented, ending with a line break. Fields with their default value are printed too.
// INTERNAL for values that JSON's mapping has no room for (a timestamp out of range).
absl::StatusOr<std::string> MessageToJson(const google::protobuf::Message& message);

// The same document as YAML, keys in the same order; strings are always quoted, so none turns into a number. A code
// point that no text uses (U+FFFE, say) becomes U+FFFD. Neither document has a control character but its line breaks.
// `json` must be valid.
std::string JsonToYaml(std::string_view json);

// Requires kJson or kYaml.
absl::StatusOr<std::string> MessageToText(const google::protobuf::Message& message, OutputFormat format);
std::string JsonToText(const std::string& json, OutputFormat format);

}  // namespace vlm::cli

#endif  // VLM_CLI_MESSAGE_TEXT_H_
