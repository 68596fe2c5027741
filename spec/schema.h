// The job file's schema as data: one table drives checking, completion of defaults, suggestions for unknown
// keys, `explain`, the reference in docs/ and which fields a stage's digest covers.
#ifndef VLM_SPEC_SCHEMA_H_
#define VLM_SPEC_SCHEMA_H_

#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "spec/stage.h"

namespace vlm::spec {

enum class ValueType {
  kMap,
  kOpenMap,  // keys are free names; the element row's path ends in "{}"
  kList,     // the element row's path ends in "[]"
  kString,
  kName,       // a letter or digit, then letters, digits, '-', '_' or '.'
  kPath,       // a path or glob
  kPathOrMap,  // a path or glob, or a map
  kInteger,
  kCount,  // an integer, or a number with K, M, B or T: 11.2B
  kNumber,
  kNumberOrMap,  // one number for every child row, or a map
  kBoolean,
  kChoice,
  kIntegerChoice,
  kSteps,     // an integer, or "500 steps"
  kDuration,  // "5s", "1h30m"
  kLimit,     // an integer, or "unlimited"
  kStage,     // the name of a stage whose kind is one of `choices`
  kNotYet,    // known, and refused: "not supported yet"
};

using KindMask = uint32_t;
constexpr KindMask MaskOf(StageKind kind) { return 1u << static_cast<int>(kind); }
inline constexpr KindMask kEveryKind = ~0u;

struct Field {
  std::string_view path;  // "spec.stages[].train.lr"
  ValueType type = ValueType::kMap;
  std::string_view doc;
  bool required = false;
  // Written where the key is absent: YAML; "@key" copies the sibling if there is one, "^a.b" the value spec.a.b.
  // Empty: the key may stay absent.
  std::string_view fallback = {};
  double min = -std::numeric_limits<double>::infinity();  // of a number, or of a list's length
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;         // min itself is refused
  std::string_view choices = {};  // "a|b"
  std::string_view later = {};    // words that are known and not supported yet
  KindMask kinds = kEveryKind;    // stage kinds the row is for
  bool semantic = true;           // changes results: part of the stage's digest
};

// Rows in the order of the reference; a parent stands before its children. One path may have several rows for
// different kinds.
std::span<const Field> SchemaTable();

// The table as a tree. Immutable, shared, thread-safe.
struct SchemaNode {
  std::string key;  // "train"; "[]" for a list's element, "{}" for an open map's
  std::vector<const Field*> rows;
  std::vector<SchemaNode> children;  // in table order

  // The row for `kind`; null when there is none. `kinds` may hold every kind when the kind is unknown.
  const Field* Row(KindMask kinds) const;
  const SchemaNode* Child(std::string_view name) const;
};
const SchemaNode& Schema();

// The node of "spec.stages[].train"; brackets may hold a name or nothing and may be left out. Null when unknown.
const SchemaNode* FindSchemaNode(std::string_view path);

std::vector<std::string_view> SplitChoices(std::string_view choices);
// The words of a kind mask: "pretrain, align, sft"; empty for every kind.
std::string KindNames(KindMask kinds);
// "a list of maps", "an integer"...
std::string_view TypeName(ValueType type);
// "from 0 to 1", "at least 1"; empty when unbounded.
std::string RangeText(const Field& field);

// The closest of `candidates` to `word` by edit distance with transpositions, or nothing when none is close
// (more than a third of the word, and more than 1).
std::string Nearest(std::string_view word, const std::vector<std::string>& candidates);

// What a person asks of one field: type, default, range, meaning, and the keys below it.
// NOT_FOUND with the nearest path for an unknown one.
absl::StatusOr<std::string> Explain(std::string_view path);

// docs/job-file.md.
std::string ReferenceMarkdown();

}  // namespace vlm::spec

#endif  // VLM_SPEC_SCHEMA_H_
