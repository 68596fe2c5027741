#include "tests/fuzz/screen_check.h"

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>
#include <yaml-cpp/yaml.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/match.h"
#include "base/check.h"
#include "base/utf8.h"
#include "cli/message_text.h"

namespace vlm::fuzz {
namespace {

using google::protobuf::Message;
using nlohmann::ordered_json;

bool IsControl(std::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(character[i]); };
  return byte(0) < 0x20 || byte(0) == 0x7F || (byte(0) == 0xC2 && byte(1) < 0xA0);
}

// The YAML says what the JSON says, in its order, strings as strings.
void CheckSame(const ordered_json& json, const YAML::Node& yaml) {
  if (json.is_object()) {
    VLM_CHECK(yaml.IsMap() && yaml.size() == json.size(), "a map of another size");
    auto row = yaml.begin();
    for (const auto& [key, value] : json.items()) {
      VLM_CHECK(row->first.as<std::string>() == key, "another key: " + key);
      CheckSame(value, (row++)->second);
    }
  } else if (json.is_array()) {
    VLM_CHECK(yaml.IsSequence() && yaml.size() == json.size(), "a list of another size");
    for (size_t i = 0; i < json.size(); ++i) CheckSame(json[i], yaml[i]);
  } else if (json.is_string()) {
    const std::string text = yaml.as<std::string>();
    VLM_CHECK(yaml.Tag() == "!", "a string without quotes");
    VLM_CHECK(text == json.get<std::string>() || absl::StrContains(text, "\xef\xbf\xbd"), "another string: " + text);
  } else {
    VLM_CHECK(yaml.IsScalar() && yaml.Tag() == "?" && yaml.Scalar() == json.dump(), "another value: " + yaml.Scalar());
  }
}

ordered_json Parsed(std::string_view text) {
  CheckScreen(text);
  ordered_json json = ordered_json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  VLM_CHECK(!json.is_discarded(), "no JSON: " + std::string(text));
  return json;
}

YAML::Node Loaded(std::string_view text) {
  CheckScreen(text);
  const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(text));
  VLM_CHECK(documents.size() == 1, "not one document of YAML: " + std::string(text));
  return documents[0];
}

}  // namespace

void CheckLine(std::string_view line) {
  for (std::string_view rest = line; !rest.empty();) {
    const size_t bytes = Utf8CharacterBytes(rest);
    VLM_CHECK(bytes > 0, "no UTF-8 for the terminal: " + std::string(line));
    VLM_CHECK(!IsControl(rest.substr(0, bytes)), "a control character reaches the terminal: " + std::string(line));
    rest.remove_prefix(bytes);
  }
}

void CheckScreen(std::string_view text) {
  VLM_CHECK(text.empty() || text.back() == '\n', "a line without an end: " + std::string(text));
  while (!text.empty()) {
    CheckLine(text.substr(0, text.find('\n')));
    text.remove_prefix(text.find('\n') + 1);
  }
}

void CheckJson(std::string_view text) { Parsed(text); }
void CheckYaml(std::string_view text) { Loaded(text); }

void CheckDocuments(const Message& message) {
  const absl::StatusOr<std::string> json = cli::MessageToText(message, cli::OutputFormat::kJson);
  const absl::StatusOr<std::string> yaml = cli::MessageToText(message, cli::OutputFormat::kYaml);
  VLM_CHECK(json.ok() == yaml.ok(), "one of two forms of a document");
  if (!json.ok()) {
    VLM_CHECK(absl::IsInternal(json.status()) && !json.status().message().empty(), json.status().ToString());
    return;
  }
  CheckSame(Parsed(*json), Loaded(*yaml));
  const std::unique_ptr<Message> sent(message.New()), read(message.New());
  sent->CopyFrom(message);
  sent->DiscardUnknownFields();  // no name, so no place in JSON
  const auto status = google::protobuf::util::JsonStringToMessage(*json, read.get());
  VLM_CHECK(status.ok(), "JSON that Protobuf does not read: " + status.ToString() + *json);
  google::protobuf::util::DefaultFieldComparator numbers;
  numbers.set_treat_nan_as_equal(true);
  google::protobuf::util::MessageDifferencer difference;
  difference.set_field_comparator(&numbers);
  // Protobuf reads a duration's nanoseconds through a double.
  difference.IgnoreField(google::protobuf::Duration::descriptor()->FindFieldByName("nanos"));
  // Protobuf reads -0 as 0, and takes it for another number.
  if (absl::StrContains(*json, ": -0,") || absl::StrContains(*json, ": -0\n")) return;
  VLM_CHECK(difference.Compare(*sent, *read), "JSON that reads as another message: " + *json);
}

}  // namespace vlm::fuzz
