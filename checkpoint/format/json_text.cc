#include "checkpoint/format/json_text.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace vlm::checkpoint {
namespace {

using nlohmann::json;

// Builds the value as nlohmann's own parser does, but refuses equal keys, which that one drops in silence, and any
// depth. (Its parser with a callback looks through an object's members at the end of each: a header of a hundred
// thousand tensors would take minutes.)
class StrictBuilder final : public nlohmann::json_sax<json> {
 public:
  explicit StrictBuilder(int depth_max) : depth_max_(depth_max) {}

  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return Add(value) != nullptr; }
  bool string(string_t& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t& value) override { return Add(std::move(value)) != nullptr; }
  bool start_object(std::size_t) override { return Enter(json::object()); }
  bool start_array(std::size_t) override { return Enter(json::array()); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }
  bool key(string_t& name) override {
    if (open_.back()->contains(name)) {
      return Fail(
          absl::StrCat("JSON has a key twice: ", json(name).dump(-1, ' ', true, json::error_handler_t::replace)));
    }
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    const bool of_syntax = dynamic_cast<const json::parse_error*>(&error) != nullptr;
    return Fail(of_syntax ? absl::StrCat("no valid JSON at byte ", position)
                          : absl::StrCat("JSON cannot be represented: ", error.what()));  // a number beyond a double
  }

  const std::string& fault() const { return fault_; }
  json Take() { return std::move(root_); }

 private:
  json* Add(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    return &((*open_.back())[key_] = std::move(value));
  }
  bool Enter(json value) {
    if (open_.size() >= static_cast<size_t>(depth_max_)) {
      return Fail(absl::StrCat("JSON is nested deeper than ", depth_max_));
    }
    open_.push_back(Add(std::move(value)));  // stays in place: nothing is added to its parent before it is left
    return true;
  }
  bool Leave() {
    open_.pop_back();
    return true;
  }
  bool Fail(std::string fault) {
    fault_ = std::move(fault);
    return false;
  }

  const int depth_max_;
  json root_;
  std::vector<json*> open_;
  std::string key_, fault_;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(std::string_view text, int depth_max) {
  // nlohmann's parser takes a NUL for the end of the text and would pass over what follows.
  const size_t nul = text.find('\0');
  if (nul != std::string_view::npos) return absl::InvalidArgumentError(absl::StrCat("no valid JSON at byte ", nul + 1));
  StrictBuilder builder(depth_max);
  if (!json::sax_parse(text.begin(), text.end(), &builder)) return absl::InvalidArgumentError(builder.fault());
  return builder.Take();
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
