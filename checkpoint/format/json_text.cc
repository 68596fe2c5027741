#include "checkpoint/format/json_text.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace vlm::checkpoint {
namespace {

using nlohmann::json;

// Watches a parse: nlohmann's own parser keeps the last of two equal keys in silence, and any depth.
class StrictWatch {
 public:
  explicit StrictWatch(int depth_max) : depth_max_(depth_max) {}

  // False drops the value, which keeps what a hostile text can build small.
  bool Keep(int depth, json::parse_event_t event, const json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        if (depth >= depth_max_ && fault_.empty()) fault_ = absl::StrCat("JSON is nested deeper than ", depth_max_);
        keys_.emplace_back();
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        keys_.pop_back();
        break;
      case json::parse_event_t::key:
        if (!keys_.back().insert(parsed.get_ref<const std::string&>()).second && fault_.empty()) {
          fault_ = absl::StrCat("JSON has a key twice: ", parsed.dump(-1, ' ', true, json::error_handler_t::replace));
        }
        break;
      case json::parse_event_t::value:
        break;
    }
    return fault_.empty();
  }

  const std::string& fault() const { return fault_; }

 private:
  const int depth_max_;
  std::vector<std::set<std::string>> keys_;  // of the open objects
  std::string fault_;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(std::string_view text, int depth_max) {
  // nlohmann's parser takes a NUL for the end of the text and would pass over what follows.
  const size_t nul = text.find('\0');
  if (nul != std::string_view::npos) return absl::InvalidArgumentError(absl::StrCat("no valid JSON at byte ", nul + 1));
  StrictWatch watch(depth_max);
  json::parser_callback_t callback = [&](int depth, json::parse_event_t event, json& parsed) {
    return watch.Keep(depth, event, parsed);
  };
  try {
    json parsed = json::parse(text.begin(), text.end(), callback);
    if (!watch.fault().empty()) return absl::InvalidArgumentError(watch.fault());
    return parsed;
  } catch (const json::parse_error& error) {
    if (!watch.fault().empty()) return absl::InvalidArgumentError(watch.fault());
    return absl::InvalidArgumentError(absl::StrCat("no valid JSON at byte ", error.byte));
  } catch (const json::exception& error) {  // a number beyond what a double holds
    return absl::InvalidArgumentError(absl::StrCat("JSON cannot be represented: ", error.what()));
  }
}

bool IsUtf8(std::string_view text) {
  try {
    static_cast<void>(json(std::string(text)).dump());
    return true;
  } catch (const json::type_error&) {
    return false;
  }
}

}  // namespace vlm::checkpoint
