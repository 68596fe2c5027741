#include "spec/schema.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "spec/words.h"

namespace vlm::spec {
namespace {

// "spec.stages[].name" -> spec, stages, [], name. What stands inside brackets is dropped.
std::vector<std::string> PathParts(std::string_view path) {
  std::vector<std::string> parts;
  std::string part;
  const auto flush = [&] {
    if (!part.empty()) parts.push_back(std::exchange(part, {}));
  };
  for (size_t i = 0; i < path.size(); ++i) {
    const char c = path[i];
    if (c == '.') {
      flush();
    } else if (c == '[' || c == '{') {
      flush();
      parts.push_back(c == '[' ? "[]" : "{}");
      while (i < path.size() && path[i] != (c == '[' ? ']' : '}')) ++i;
    } else {
      part += c;
    }
  }
  flush();
  return parts;
}

SchemaNode BuildSchema() {
  SchemaNode root;
  for (const Field& field : SchemaTable()) {
    SchemaNode* node = &root;
    for (const std::string& part : PathParts(field.path)) {
      const auto found = std::find_if(node->children.begin(), node->children.end(),
                                      [&](const SchemaNode& child) { return child.key == part; });
      if (found != node->children.end()) {
        node = &*found;
        continue;
      }
      node->children.push_back({part, {}, {}});
      node = &node->children.back();
    }
    node->rows.push_back(&field);
  }
  return root;
}

// Optimal string alignment: insertions, deletions, substitutions and transpositions of neighbours.
int EditDistance(std::string_view a, std::string_view b) {
  std::vector<int> before, last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before = std::exchange(last, row);
  }
  return last[b.size()];
}

std::string Bound(double value) {
  if (std::floor(value) == value && std::abs(value) < 1e15) return absl::StrCat(static_cast<int64_t>(value));
  return absl::StrCat(value);
}

}  // namespace

const Field* SchemaNode::Row(KindMask kinds) const {
  for (const Field* row : rows) {
    if ((row->kinds & kinds) != 0) return row;
  }
  return nullptr;
}

const SchemaNode* SchemaNode::Child(std::string_view name) const {
  const auto found =
      std::find_if(children.begin(), children.end(), [&](const SchemaNode& child) { return child.key == name; });
  return found == children.end() ? nullptr : &*found;
}

const SchemaNode& Schema() {
  static const SchemaNode* const root = new SchemaNode(BuildSchema());
  return *root;
}

const SchemaNode* FindSchemaNode(std::string_view path) {
  const SchemaNode* node = &Schema();
  for (const std::string& part : PathParts(path)) {
    const SchemaNode* next = node->Child(part);
    if (next == nullptr) {  // "stages.train": the element is meant
      const SchemaNode* element = node->Child("[]");
      next = element == nullptr ? node->Child("{}") : element->Child(part);
    }
    if (next == nullptr) return nullptr;
    node = next;
  }
  return node;
}

std::vector<std::string_view> SplitChoices(std::string_view choices) {
  std::vector<std::string_view> words;
  while (!choices.empty()) {
    const size_t bar = choices.find('|');
    words.push_back(choices.substr(0, bar));
    choices = bar == std::string_view::npos ? std::string_view() : choices.substr(bar + 1);
  }
  return words;
}

std::string KindNames(KindMask kinds) {
  if (kinds == kEveryKind) return "";
  std::vector<std::string> names;
  for (size_t i = 0; i < Words<StageKind>::kAll.size(); ++i) {
    if ((kinds >> i & 1) != 0) names.emplace_back(Words<StageKind>::kAll[i]);
  }
  return absl::StrJoin(names, ", ");
}

std::string_view TypeName(ValueType type) {
  switch (type) {
    case ValueType::kMap:
      return "a map";
    case ValueType::kOpenMap:
      return "a map with free keys";
    case ValueType::kList:
      return "a list";
    case ValueType::kString:
      return "a string";
    case ValueType::kName:
      return "a name";
    case ValueType::kPath:
      return "a path";
    case ValueType::kPathOrMap:
      return "a path or a map";
    case ValueType::kInteger:
      return "an integer";
    case ValueType::kCount:
      return "an integer, or a number with K, M, B or T";
    case ValueType::kNumber:
      return "a number";
    case ValueType::kNumberOrMap:
      return "a number or a map of numbers";
    case ValueType::kBoolean:
      return "true or false";
    case ValueType::kChoice:
      return "one word";
    case ValueType::kIntegerChoice:
      return "an integer";
    case ValueType::kSteps:
      return "a number of steps, like 500 steps";
    case ValueType::kDuration:
      return "a duration, like 5s or 1m30s";
    case ValueType::kLimit:
      return "an integer or unlimited";
    case ValueType::kStage:
      return "the name of a stage";
    case ValueType::kNotYet:
      return "not supported yet";
  }
  VLM_CHECK(false, "unknown value type");
  return "";
}

std::string RangeText(const Field& field) {
  const bool low = std::isfinite(field.min), high = std::isfinite(field.max);
  if (low && field.above_min) {
    return absl::StrCat("above ", Bound(field.min), high ? absl::StrCat(", at most ", Bound(field.max)) : "");
  }
  if (low && high) return absl::StrCat("from ", Bound(field.min), " to ", Bound(field.max));
  if (low) return absl::StrCat("at least ", Bound(field.min));
  return high ? absl::StrCat("at most ", Bound(field.max)) : "";
}

std::string Nearest(std::string_view word, const std::vector<std::string>& candidates) {
  constexpr size_t kComparedMax = 64;  // longer words are no slip of the finger
  if (word.size() > kComparedMax) return "";
  const int limit = std::max<int>(1, static_cast<int>(word.size()) / 3);
  int best = limit + 1;
  std::string nearest;
  for (const std::string& candidate : candidates) {
    const int distance = EditDistance(word, candidate);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace vlm::spec
