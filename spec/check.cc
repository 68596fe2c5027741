#include "spec/check.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"
#include "base/utf8.h"
#include "spec/scalar.h"
#include "spec/scalar_check.h"
#include "spec/value_path.h"
#include "spec/words.h"

namespace vlm::spec {
namespace {

constexpr std::string_view kStagesPath = "spec.stages[]";

// Defaults carry no place.
void ForgetPlaces(YamlNode& node) {
  node.at = {};
  for (YamlNode& item : node.items) ForgetPlaces(item);
  for (YamlEntry& entry : node.entries) {
    entry.at = {};
    ForgetPlaces(entry.value);
  }
}

// The fallback of a row as a node. Lists and maps are parsed once per process.
YamlNode FallbackNode(const Field& field) {
  if (field.fallback[0] != '[' && field.fallback[0] != '{') return ScalarNode(std::string(field.fallback), {});
  static const auto* const parsed = [] {
    auto* all = new std::map<const Field*, YamlNode>();
    for (const Field& row : SchemaTable()) {
      if (row.fallback.empty() || (row.fallback[0] != '[' && row.fallback[0] != '{')) continue;
      Diagnostics diagnostics;
      std::optional<YamlNode> node = ReadYaml(row.fallback, "schema", &diagnostics);
      VLM_CHECK(node.has_value() && diagnostics.empty(), diagnostics.ToString());
      ForgetPlaces(*node);
      all->emplace(&row, *std::move(node));
    }
    return all;
  }();
  return parsed->at(&field);
}

class Checker {
 public:
  Checker(const YamlNode* root, Diagnostics* diagnostics) : root_(root), diagnostics_(diagnostics) {}

  // `path` is the place in the document; `kinds` the kind of the stage around it, or every kind.
  CheckedJson Value(YamlNode& node, const SchemaNode& schema, KindMask kinds, const ValuePath& path) {
    const Field* row = schema.Row(kinds);
    VLM_CHECK(row != nullptr, "a value without a row");
    switch (row->type) {
      case ValueType::kMap:
        if (!node.is_map()) return WrongType(node, *row, schema, path);
        return Map(node, schema, row->path == kStagesPath ? KindOf(node) : kinds, path);
      case ValueType::kOpenMap:
        return node.is_map() ? OpenMap(node, schema, kinds, path) : WrongType(node, *row, schema, path);
      case ValueType::kList:
        return node.is_list() ? List(node, schema, kinds, path) : WrongType(node, *row, schema, path);
      case ValueType::kPathOrMap:
        if (node.is_map()) return Map(node, schema, kinds, path);
        break;
      case ValueType::kNumberOrMap:
        if (node.is_map()) return Map(node, schema, kinds, path);
        if (node.is_scalar()) return SpreadNumber(node, schema, kinds, path);
        break;
      default:
        break;
    }
    if (!node.is_scalar()) return WrongType(node, *row, schema, path);
    ScalarResult result = CheckScalar(node, *row);
    if (result.message.empty()) return std::move(result.value);
    Report(node.at, path, std::move(result.message), std::move(result.suggestion));
    return nullptr;
  }

  std::vector<bool> TakeStageFits() { return std::move(stage_fits_); }

 private:
  void Report(const Place& at, const ValuePath& path, std::string message, std::string suggestion = "") {
    diagnostics_->Add({path.Text(), at.ToPosition(), std::move(message), std::move(suggestion)});
  }

  // In the order they are given; each key once.
  static CheckedJson::object_t& Members(CheckedJson* object) { return object->get_ref<CheckedJson::object_t&>(); }

  CheckedJson WrongType(const YamlNode& node, const Field& row, const SchemaNode& schema, const ValuePath& path) {
    const bool reference = row.type == ValueType::kMap && schema.Child("stage") != nullptr;
    if (reference && node.is_scalar()) {
      Report(node.at, path, absl::StrCat("a path is not supported yet here: ", node.Describe()), "write {stage: NAME}");
    } else {
      Report(node.at, path, absl::StrCat("expected ", std::string(TypeName(row.type)), ", got ", node.Describe()));
    }
    return nullptr;
  }

  CheckedJson Map(YamlNode& node, const SchemaNode& schema, KindMask kinds, const ValuePath& path) {
    CheckedJson out = ObjectFor(schema.children.size());
    for (const YamlEntry& entry : node.entries) CheckKey(entry, schema, kinds, path);
    for (const SchemaNode& child : schema.children) {
      const Field* row = child.Row(kinds);
      if (row == nullptr || row->type == ValueType::kNotYet) continue;
      YamlNode* value = node.Find(child.key);
      if (value == nullptr) value = AddDefault(node, child, *row, kinds, path);
      if (value == nullptr) continue;
      Members(&out).emplace_back(child.key, Value(*value, child, kinds, ValuePath(path, child.key)));
    }
    return out;
  }

  // Null when the key stays absent.
  YamlNode* AddDefault(YamlNode& node, const SchemaNode& child, const Field& row, KindMask kinds,
                       const ValuePath& path) {
    const bool in_stage_of_unknown_kind = kinds == kEveryKind && row.kinds != kEveryKind;
    if (in_stage_of_unknown_kind) return nullptr;
    if (row.required) {
      Report(node.at, path, absl::StrCat("missing key: '", child.key, "'"), std::string(row.doc));
      return nullptr;
    }
    if (row.fallback.empty()) return nullptr;
    YamlNode value;
    if (row.fallback[0] == '@') {
      const YamlNode* sibling = node.Find(row.fallback.substr(1));
      if (sibling == nullptr || !Fits(*sibling, child, kinds, path)) return nullptr;
      value = *sibling;
    } else if (row.fallback[0] == '^') {
      const YamlNode* inherited = root_ == nullptr ? nullptr : Inherited(row.fallback.substr(1));
      if (inherited == nullptr) {
        if (root_ == nullptr) Report(node.at, path, absl::StrCat("missing key: '", child.key, "'"));
        hole_ = true;
        return nullptr;
      }
      if (!Fits(*inherited, child, kinds, path)) {
        hole_ = true;
        return nullptr;
      }
      value = *inherited;
    } else {
      value = FallbackNode(row);
    }
    node.entries.push_back({child.key, {}, std::move(value)});
    return &node.entries.back().value;
  }

  // What is wrong with a value that is copied was reported where it stands.
  bool Fits(YamlNode value, const SchemaNode& schema, KindMask kinds, const ValuePath& path) const {
    Diagnostics reported_already;
    Checker(root_, &reported_already).Value(value, schema, kinds, path);
    return reported_already.empty();
  }

  // "stop_if.nonfinite_steps" below spec; the rows before spec.stages are complete when stages are checked.
  const YamlNode* Inherited(std::string_view path) const {
    const YamlNode* node = root_->Find("spec");
    while (node != nullptr && !path.empty()) {
      const size_t dot = path.find('.');
      node = node->Find(path.substr(0, dot));
      path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
    }
    return node;
  }

  void CheckKey(const YamlEntry& entry, const SchemaNode& schema, KindMask kinds, const ValuePath& parent) {
    const SchemaNode* child = schema.Child(entry.key);
    const Field* row = child == nullptr ? nullptr : child->Row(kinds);
    if (row != nullptr && row->type != ValueType::kNotYet) return;
    if (diagnostics_->full()) return Report(entry.at, parent, "unknown key");
    if (row != nullptr) {
      return Report(entry.at, parent, absl::StrCat("'", entry.key, "' is not supported yet"));
    }
    if (child != nullptr && !child->rows.empty()) {
      KindMask belongs = 0;
      for (const Field* other : child->rows) belongs |= other->kinds;
      return Report(entry.at, parent,
                    absl::StrCat("'", entry.key, "' does not belong to a stage of kind '", KindNames(kinds), "'"),
                    absl::StrCat("it is for ", KindNames(belongs)));
    }
    if (entry.key == "<<") return Report(entry.at, parent, "merge keys are not allowed", "use extends");
    Report(entry.at, parent, absl::StrCat("unknown key: '", entry.key, "'"), Suggestion(entry.key, schema, kinds));
  }

  static std::string Suggestion(const std::string& key, const SchemaNode& schema, KindMask kinds) {
    std::vector<std::string> known;
    for (const SchemaNode& child : schema.children) {
      const Field* row = child.Row(kinds);
      if (row != nullptr && row->type != ValueType::kNotYet) known.push_back(child.key);
    }
    const std::string nearest = Nearest(key, known);
    if (!nearest.empty()) return absl::StrCat("did you mean '", nearest, "'?");
    const std::string suffix = absl::StrCat(".", key);
    for (const Field& row : SchemaTable()) {
      if (row.path.ends_with(suffix) && (row.kinds & kinds) != 0 && row.type != ValueType::kNotYet) {
        return absl::StrCat("it stands under ", std::string(row.path.substr(0, row.path.size() - suffix.size())));
      }
    }
    return absl::StrCat("known keys: ", absl::StrJoin(known, ", "));
  }

  CheckedJson OpenMap(YamlNode& node, const SchemaNode& schema, KindMask kinds, const ValuePath& path) {
    CheckedJson out = CheckedJson::object();
    CheckLength(node, node.entries.size(), *schema.Row(kinds), path);
    for (YamlEntry& entry : node.entries) {
      if (!IsName(entry.key)) {
        Report(entry.at, path, absl::StrCat("not a name: '", CutUtf8(entry.key, 64), "'"),
               "up to 63 letters, digits, '-', '_' and '.'");
        continue;
      }
      out[entry.key] = Value(entry.value, *schema.Child("{}"), kinds, ValuePath(path, entry.key));
    }
    return out;
  }

  CheckedJson List(YamlNode& node, const SchemaNode& schema, KindMask kinds, const ValuePath& path) {
    CheckedJson out = CheckedJson::array();
    const SchemaNode& element = *schema.Child("[]");
    const bool stages = element.Row(kinds)->path == kStagesPath;
    if (!CheckLength(node, node.items.size(), *schema.Row(kinds), path)) return out;
    for (size_t i = 0; i < node.items.size(); ++i) {
      const int64_t before = diagnostics_->count();
      if (stages) hole_ = false;
      out.push_back(Value(node.items[i], element, kinds, ValuePath(path, node.items[i], i)));
      if (stages) stage_fits_.push_back(diagnostics_->count() == before && !hole_);
    }
    return out;
  }

  // False when there are too many entries to look at them.
  bool CheckLength(const YamlNode& node, size_t length, const Field& row, const ValuePath& path) {
    const auto count = static_cast<double>(length);
    if (count < row.min || count > row.max) {
      Report(node.at, path, absl::StrCat("the number of entries must be ", RangeText(row), ", got ", length));
    }
    return !(count > row.max);
  }

  // "lr: 1e-3" is a number for every group of the kind.
  CheckedJson SpreadNumber(YamlNode& node, const SchemaNode& schema, KindMask kinds, const ValuePath& path) {
    CheckedJson out = ObjectFor(schema.children.size());
    ScalarResult result = CheckScalar(node, *schema.Row(kinds));
    if (!result.message.empty()) {
      Report(node.at, path, std::move(result.message), std::move(result.suggestion));
      return out;
    }
    for (const SchemaNode& child : schema.children) {
      if (child.Row(kinds) != nullptr) out[child.key] = result.value;
    }
    return out;
  }

  const YamlNode* const root_;  // null: no job around the stage
  Diagnostics* const diagnostics_;
  std::vector<bool> stage_fits_;
  bool hole_ = false;  // a value to hand down does not fit, which was reported where it stands
};

}  // namespace

KindMask KindOf(const YamlNode& stage) {
  const YamlNode* word = stage.Find("kind");
  if (word == nullptr || !word->is_scalar()) return kEveryKind;
  const std::optional<StageKind> kind = FromWord<StageKind>(word->scalar);
  return kind ? MaskOf(*kind) : kEveryKind;
}

Checked CheckJob(YamlNode* root, Diagnostics* diagnostics) {
  Checked checked;
  if (!root->is_map()) {
    diagnostics->Add({"", root->at.ToPosition(), absl::StrCat("expected a map, got ", root->Describe()), ""});
    return checked;
  }
  Checker checker(root, diagnostics);
  static const Field whole{.path = "", .type = ValueType::kMap, .doc = ""};
  static const SchemaNode* const schema = [] {
    auto* copy = new SchemaNode(Schema());
    copy->rows.push_back(&whole);
    return copy;
  }();
  checked.json = checker.Value(*root, *schema, kEveryKind, ValuePath());
  checked.stage_fits = checker.TakeStageFits();
  return checked;
}

CheckedJson CheckStage(YamlNode* stage, Diagnostics* diagnostics) {
  return Checker(nullptr, diagnostics).Value(*stage, *FindSchemaNode(kStagesPath), kEveryKind, ValuePath("stage"));
}

}  // namespace vlm::spec
