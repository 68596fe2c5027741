// Canonical JSON of typed values, as text and without a tree: all of it, and beside it what the schema calls semantic.
//
// The bytes are nlohmann::json's: keys sorted, no white space. Digests and rows of stores hold them.
#ifndef VLM_SPEC_CANONICAL_WRITER_H_
#define VLM_SPEC_CANONICAL_WRITER_H_

#include <charconv>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "spec/bind.h"
#include "spec/schema.h"
#include "spec/stage.h"

namespace vlm::spec {

// An archive of bind.h. Use Write() once. Not thread-safe.
class CanonicalWriter {
 public:
  // What stands in the schema at `schema`, in a stage of `kinds`.
  CanonicalWriter(const SchemaNode* schema, KindMask kinds) : schema_(schema), kinds_(kinds) {}

  template <typename T>
  void Write(T& value) {
    Value(value);
  }
  std::string TakeAll() { return std::move(all_); }
  std::string TakeSemantic() { return std::move(semantic_); }

  template <typename T>
  void operator()(const char* key, T& value) {
    if constexpr (requires { value.has_value(); }) {
      if (value.has_value()) Member(key, [&] { Value(*value); });
    } else {
      Member(key, [&] { Value(value); });
    }
  }
  // {"stage": NAME}; nothing when the name is empty.
  void Reference(const char* key, std::string& stage) {
    if (stage.empty()) return;
    Member(key, [&] { Object([&] { (*this)("stage", stage); }); });
  }
  template <typename Body>
  void Object(const char* key, bool present, Body body) {
    if (present) Member(key, [&] { Object([&] { body(*this); }); });
  }
  void Constant(const char* key, std::string_view word) {
    Member(key, [&] { String(word); });
  }

 private:
  struct Part {  // of both texts, "key":value of one member
    std::string_view key;
    size_t all = 0, semantic = 0;  // where it begins
    bool is_semantic = false;
  };

  template <typename Body>
  void Object(Body body) {
    const size_t first = parts_.size(), all = all_.size(), semantic = semantic_.size();
    body();
    CloseObject(first, all, semantic);
  }

  template <typename Body>
  void Member(std::string_view key, Body body) {
    const SchemaNode* const outer = schema_;
    if (outer != nullptr) {
      schema_ = outer->Child(key);
      if (schema_ == nullptr) schema_ = outer->Child("{}");
      const Field* row = schema_ == nullptr ? nullptr : schema_->Row(kinds_);
      VLM_CHECK(row != nullptr, "a written key without a row in the schema");
      if (!row->semantic) schema_ = nullptr;
    }
    parts_.push_back({key, all_.size(), semantic_.size(), schema_ != nullptr});
    String(key);
    Append(":");
    body();
    schema_ = outer;
  }

  template <typename T>
  void Value(T& value) {
    using Plain = std::remove_cv_t<T>;
    if constexpr (Word<Plain>) {
      String(WordOf(value));
    } else if constexpr (std::is_same_v<Plain, bool>) {
      Append(value ? "true" : "false");
    } else if constexpr (std::is_integral_v<Plain>) {
      char digits[24];
      Append(std::string_view(digits, std::to_chars(digits, digits + sizeof(digits), value).ptr - digits));
    } else if constexpr (std::is_floating_point_v<Plain>) {
      Number(value);
    } else if constexpr (std::is_same_v<Plain, std::string>) {
      String(value);
    } else if constexpr (std::is_same_v<Plain, std::map<std::string, double>>) {
      Object([&] {
        for (auto& [key, number] : value) Member(key, [&] { Number(number); });
      });
    } else if constexpr (requires { value.push_back(value.front()); }) {
      List(value);
    } else {
      if constexpr (std::is_same_v<Plain, DataRef> || std::is_same_v<Plain, TextRef>) {
        if (!value.glob.empty()) return String(value.glob);
      }
      Object([&] { Bind(*this, value); });
    }
  }

  template <typename T>
  void List(std::vector<T>& values) {
    const SchemaNode* const outer = schema_;
    if (outer != nullptr) {
      schema_ = outer->Child("[]");
      VLM_CHECK(schema_ != nullptr, "a written list that is none in the schema");
    }
    Append("[");
    for (T& value : values) {
      if (&value != values.data()) Append(",");
      Value(value);
    }
    Append("]");
    schema_ = outer;
  }

  void Append(std::string_view text) {
    all_ += text;
    if (schema_ != nullptr) semantic_ += text;
  }
  void String(std::string_view text);
  void Number(double value);
  // Sorts the members from parts_[first] on, which begin at these places, and sets commas and braces.
  void CloseObject(size_t first, size_t all, size_t semantic);

  const SchemaNode* schema_;  // of the value being written; null within what is not semantic
  const KindMask kinds_;
  std::string all_, semantic_, sorted_;
  std::vector<Part> parts_;  // of the objects that are open
};

}  // namespace vlm::spec

#endif  // VLM_SPEC_CANONICAL_WRITER_H_
