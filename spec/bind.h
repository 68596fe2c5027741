// One description of each settings struct, used in both directions: to JSON and from JSON.
//
// Keys and nesting are those of the job file. Reading requires JSON that the schema has checked.
#ifndef VLM_SPEC_BIND_H_
#define VLM_SPEC_BIND_H_

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "spec/stage.h"
#include "spec/words.h"

namespace vlm::spec {

template <typename T>
concept Word = requires { Words<T>::kFirst; };

class JsonWriter;
class JsonReader;
template <typename Archive, typename T>
void Bind(Archive& archive, T& value);  // defined per struct in canonical.cc

class JsonWriter {
 public:
  explicit JsonWriter(nlohmann::json* out) : out_(out) { *out = nlohmann::json::object(); }

  template <typename T>
  void operator()(const char* key, T& value) {
    if constexpr (requires { value.has_value(); }) {
      if (value.has_value()) (*out_)[key] = Make(*value);
    } else {
      (*out_)[key] = Make(value);
    }
  }
  // {"stage": NAME}; nothing when the name is empty.
  void Reference(const char* key, std::string& stage) {
    if (!stage.empty()) (*out_)[key] = {{"stage", stage}};
  }
  template <typename Body>
  void Object(const char* key, bool present, Body body) {
    if (!present) return;
    nlohmann::json inner;
    JsonWriter writer(&inner);
    body(writer);
    (*out_)[key] = std::move(inner);
  }
  void Constant(const char* key, const char* word) { (*out_)[key] = word; }

  template <typename T>
  static nlohmann::json Make(T& value) {
    using Value = std::remove_cv_t<T>;
    if constexpr (Word<Value>) {
      return std::string(WordOf(value));
    } else if constexpr (std::is_arithmetic_v<Value> || std::is_same_v<Value, std::string> ||
                         std::is_same_v<Value, std::map<std::string, double>>) {
      return value;
    } else if constexpr (requires { value.push_back(value.front()); }) {
      nlohmann::json list = nlohmann::json::array();
      for (auto& item : value) list.push_back(Make(item));
      return list;
    } else {
      nlohmann::json inner;
      JsonWriter writer(&inner);
      return Finish(writer, value, &inner);
    }
  }

 private:
  template <typename T>
  static nlohmann::json Finish(JsonWriter& writer, T& value, nlohmann::json* inner) {
    if constexpr (std::is_same_v<T, DataRef> || std::is_same_v<T, TextRef>) {
      if (!value.glob.empty()) return value.glob;
    }
    Bind(writer, value);
    return std::move(*inner);
  }

  nlohmann::json* const out_;
};

class JsonReader {
 public:
  explicit JsonReader(const nlohmann::json& in) : in_(in) {}

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
  static void Take(const nlohmann::json& in, T& value) {
    if constexpr (Word<T>) {
      value = *FromWord<T>(in.get_ref<const std::string&>());
    } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string> ||
                         std::is_same_v<T, std::map<std::string, double>>) {
      in.get_to(value);
    } else if constexpr (requires { value.push_back(value.front()); }) {
      for (const nlohmann::json& item : in) Take(item, value.emplace_back());
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

  const nlohmann::json& in_;
};

}  // namespace vlm::spec

#endif  // VLM_SPEC_BIND_H_
