#include "cli/message_text.h"

#include <google/protobuf/util/json_util.h>
#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"

namespace vlm::cli {
namespace {

void Emit(const nlohmann::ordered_json& json, YAML::Emitter* out) {
  if (json.is_object()) {
    if (json.empty()) *out << YAML::Flow;
    *out << YAML::BeginMap;
    for (const auto& [key, value] : json.items()) {
      *out << YAML::Key << key << YAML::Value;
      Emit(value, out);
    }
    *out << YAML::EndMap;
  } else if (json.is_array()) {
    if (json.empty()) *out << YAML::Flow;
    *out << YAML::BeginSeq;
    for (const auto& value : json) Emit(value, out);
    *out << YAML::EndSeq;
  } else if (json.is_string()) {
    *out << YAML::DoubleQuoted << json.get<std::string>();
  } else if (json.is_null()) {
    *out << YAML::Null;
  } else {
    *out << json.dump();  // numbers, true and false read the same in YAML
  }
}

// Protobuf's printer escapes DEL and C1, nlohmann's does not; only strings have them.
std::string EscapeControls(std::string_view json) {
  std::string escaped;
  for (size_t i = 0; i < json.size(); ++i) {
    const auto byte = static_cast<unsigned char>(json[i]);
    const auto next = static_cast<unsigned char>(i + 1 < json.size() ? json[i + 1] : 0);
    if (byte == 0x7F) {
      escaped += "\\u007f";
    } else if (byte == 0xC2 && next >= 0x80 && next < 0xA0) {
      absl::StrAppend(&escaped, "\\u00", absl::Hex(next));
      ++i;
    } else {
      escaped += json[i];
    }
  }
  return escaped;
}

}  // namespace

absl::StatusOr<std::string> MessageToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!status.ok()) return absl::InternalError("the answer cannot be printed as JSON: " + status.ToString());
  return json;
}

std::string JsonToYaml(std::string_view json) {
  YAML::Emitter out;
  Emit(nlohmann::ordered_json::parse(json), &out);
  // The emitter escapes control characters but DEL, which only strings have, and they are quoted.
  return absl::StrReplaceAll(out.c_str(), {{"\x7f", "\\x7F"}}) + "\n";
}

std::string JsonToText(const std::string& json, OutputFormat format) {
  VLM_CHECK(format != OutputFormat::kTable, "a table has no JSON");
  return format == OutputFormat::kJson ? EscapeControls(json) : JsonToYaml(json);
}

absl::StatusOr<std::string> MessageToText(const google::protobuf::Message& message, OutputFormat format) {
  VLM_ASSIGN_OR_RETURN(const std::string json, MessageToJson(message));
  return JsonToText(json, format);
}

}  // namespace vlm::cli
