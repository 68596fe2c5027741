// A YAML document as a plain tree in which every key and value knows its place.
#ifndef VLM_SPEC_YAML_NODE_H_
#define VLM_SPEC_YAML_NODE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "spec/diagnostic.h"

namespace vlm::spec {

struct Place {
  std::shared_ptr<const std::string> source;  // null: a default
  int32_t line = 0;                           // from 1; 0: no line
  int32_t column = 0;                         // from 1, in characters
  Position ToPosition() const { return {source ? *source : "", line, column}; }
  bool known() const { return source != nullptr; }
};

struct YamlEntry;

// Value type; not thread-safe to change, safe to read.
struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  bool quoted = false;  // of a scalar: written in quotes or as a block
  std::string scalar;
  Place at;
  std::vector<YamlNode> items;     // kList
  std::vector<YamlEntry> entries;  // kMap, in the order of the file; keys are unique

  // Null when this is no map or has no such key.
  const YamlNode* Find(std::string_view key) const;
  YamlNode* Find(std::string_view key);
  bool is_null() const { return kind == Kind::kNull; }
  bool is_scalar() const { return kind == Kind::kScalar; }
  bool is_list() const { return kind == Kind::kList; }
  bool is_map() const { return kind == Kind::kMap; }
  // "a list", "the number 3"...: for messages
  std::string Describe() const;
};

struct YamlEntry {
  std::string key;
  Place at;
  YamlNode value;
};

YamlNode ScalarNode(std::string scalar, Place at, bool quoted = false);

// Reads one document. Refuses, with a place: more than `bytes_max` bytes, bytes that are not UTF-8 or are
// control characters, nesting deeper than kDepthMax, anchors, aliases, tags, keys that are no scalars, duplicate
// keys, a second document, an empty document. Stops at the first error of YAML's own syntax.
// Memory and time are linear in the text. Thread-safe.
std::optional<YamlNode> ReadYaml(std::string_view text, const std::string& source, Diagnostics* diagnostics);

// The same by yaml-cpp alone: what ReadYaml does with texts that are not plain (spec/plain_yaml.h).
std::optional<YamlNode> ReadAnyYaml(std::string_view text, const std::string& source, Diagnostics* diagnostics);

}  // namespace vlm::spec

#endif  // VLM_SPEC_YAML_NODE_H_
