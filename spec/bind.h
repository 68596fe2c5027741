// One description of each settings struct, used in both directions: to JSON (CanonicalWriter) and from JSON (here).
//
// Keys and nesting are those of the job file. Reading requires JSON that the schema has checked.
#ifndef VLM_SPEC_BIND_H_
#define VLM_SPEC_BIND_H_

#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "spec/checked_json.h"
#include "spec/stage.h"
#include "spec/words.h"

namespace vlm::spec {

template <typename T>
concept Word = requires { Words<T>::kFirst; };

template <typename Archive, typename T>
void Bind(Archive& archive, T& value);  // defined per struct in stage_json.cc

class JsonReader {
 public:
  explicit JsonReader(const CheckedJson& in) : in_(in) {}

  template <typename T>
  void operator()(const char* key, T& value) {
    const auto found = in_.find(key);
    if constexpr (requires { value.has_value(); }) {
      if (found == in_.end()) return;
      Take(*found, value.emplace());
    } else {
      VLM_CHECK(found != in_.end(), key);
      Take(*found, value);
    }
  }
  void Reference(const char* key, std::string& stage) {
    if (const auto found = in_.find(key); found != in_.end()) stage = found->at("stage").get<std::string>();
  }
  template <typename Body>
  void Object(const char* key, bool /*present*/, Body body) {
    const auto found = in_.find(key);
    if (found == in_.end()) return;
    JsonReader reader(*found);
    body(reader);
  }
  void Constant(const char* /*key*/, const char* /*word*/) {}

 private:
  template <typename T>
  static void Take(const CheckedJson& in, T& value) {
    if constexpr (Word<T>) {
      value = *FromWord<T>(in.get_ref<const std::string&>());
    } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string> ||
                         std::is_same_v<T, std::map<std::string, double>>) {
      in.get_to(value);
    } else if constexpr (requires { value.push_back(value.front()); }) {
      for (const CheckedJson& item : in) Take(item, value.emplace_back());
    } else {
      if constexpr (std::is_same_v<T, DataRef> || std::is_same_v<T, TextRef>) {
        if (in.is_string()) {
          in.get_to(value.glob);
          return;
        }
      }
      JsonReader reader(in);
      Bind(reader, value);
    }
  }

  const CheckedJson& in_;
};

}  // namespace vlm::spec

#endif  // VLM_SPEC_BIND_H_
