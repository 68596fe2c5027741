#include "spec/override.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "spec/check.h"
#include "spec/parse.h"
#include "spec/scalar.h"
#include "spec/value_path.h"

namespace vlm::spec {
namespace {

struct Step {
  std::string name;
  bool element = false;  // in brackets: an entry of a list
};

// "spec.stages[sft].train.lr"; nothing when it is ill-formed.
std::optional<std::vector<Step>> ReadPath(std::string_view path) {
  std::vector<Step> steps;
  bool key_may_follow = true;
  while (!path.empty()) {
    const bool element = path[0] == '[';
    if (element == key_may_follow && steps.empty()) return std::nullopt;
    if (!element && !key_may_follow) return std::nullopt;
    const size_t end = element ? path.find(']') : std::min(path.find_first_of(".["), path.size());
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view name = element ? path.substr(1, end - 1) : path.substr(0, end);
    if (name.empty()) return std::nullopt;
    steps.push_back({std::string(name), element});
    path.remove_prefix(element ? end + 1 : end);
    key_may_follow = false;
    if (!path.empty() && path[0] == '.') {
      path.remove_prefix(1);
      if (path.empty() || path[0] == '[') return std::nullopt;
      key_may_follow = true;
    }
  }
  if (steps.empty() || steps.size() > kDepthMax) return std::nullopt;
  return steps;
}

// The entry called `name`, or at that number from 0; null when there is none.
YamlNode* Element(YamlNode& list, const std::string& name) {
  for (YamlNode& item : list.items) {
    const YamlNode* own = item.Find("name");
    if (own != nullptr && own->scalar == name) return &item;
  }
  const std::optional<int64_t> number = ReadInteger(name);
  if (!number || *number < 0 || static_cast<size_t>(*number) >= list.items.size()) return nullptr;
  return &list.items[static_cast<size_t>(*number)];
}

void Stamp(YamlNode& node, const Place& at) {
  node.at = at;
  for (YamlNode& item : node.items) Stamp(item, at);
  for (YamlEntry& entry : node.entries) {
    entry.at = at;
    Stamp(entry.value, at);
  }
}

class Setter {
 public:
  Setter(std::string path, Diagnostics* diagnostics)
      : path_(std::move(path)),
        at_{std::make_shared<const std::string>(absl::StrCat("--set ", path_)), 0, 0},
        diagnostics_(diagnostics) {}

  void Set(const std::vector<Step>& steps, const std::string& text, YamlNode* root) {
    YamlNode value;
    if (!text.empty()) {
      Diagnostics problems;
      std::optional<YamlNode> read = ReadYaml(text, "value", &problems);
      if (!read) return Report(absl::StrCat("the value is not valid YAML: ", text));
      value = *std::move(read);
    }
    Stamp(value, at_);
    YamlNode* node = root;
    for (size_t i = 0; i + 1 < steps.size() && node != nullptr; ++i) node = Descend(node, steps[i]);
    if (node != nullptr) Store(node, steps.back(), std::move(value));
  }

  void Report(std::string message, std::string suggestion = "") {
    diagnostics_->Add({path_, at_.ToPosition(), std::move(message), std::move(suggestion)});
  }

 private:
  YamlNode* Descend(YamlNode* node, const Step& step) {
    if (step.element) return Entry(node, step);
    if (node->is_null()) node->kind = YamlNode::Kind::kMap;
    if (!node->is_map()) {
      Report(absl::StrCat("not a map, so it has no key '", step.name, "'"));
      return nullptr;
    }
    if (YamlNode* found = node->Find(step.name); found != nullptr) return found;
    YamlNode made;
    made.kind = YamlNode::Kind::kMap;
    made.at = at_;
    node->entries.push_back({step.name, at_, std::move(made)});
    return &node->entries.back().value;
  }

  YamlNode* Entry(YamlNode* node, const Step& step) {
    YamlNode* found = node->is_list() ? Element(*node, step.name) : nullptr;
    if (found != nullptr) return found;
    std::vector<std::string> names;
    for (size_t i = 0; i < node->items.size(); ++i) names.push_back(ElementName(node->items[i], i));
    Report(absl::StrCat("no such list entry: [", step.name, "]"),
           absl::StrCat("entries: ", absl::StrJoin(names, ", ")));
    return nullptr;
  }

  void Store(YamlNode* node, const Step& step, YamlNode value) {
    if (step.element) {
      if (YamlNode* entry = Entry(node, step); entry != nullptr) *entry = std::move(value);
      return;
    }
    if (node->is_null()) node->kind = YamlNode::Kind::kMap;  // "labels:" with nothing behind it
    if (!node->is_map()) return Report(absl::StrCat("not a map, so it has no key '", step.name, "'"));
    const auto found = std::find_if(node->entries.begin(), node->entries.end(),
                                    [&](const YamlEntry& entry) { return entry.key == step.name; });
    if (value.is_null()) {
      if (found == node->entries.end()) return Report(absl::StrCat("no such key to remove: '", step.name, "'"));
      node->entries.erase(found);
    } else if (found != node->entries.end()) {
      found->at = at_;
      found->value = std::move(value);
    } else {
      node->entries.push_back({step.name, at_, std::move(value)});
    }
  }

  const std::string path_;
  const Place at_;
  Diagnostics* const diagnostics_;
};

}  // namespace

void ApplyOverride(const std::string& override_text, YamlNode* root, Diagnostics* diagnostics) {
  const size_t equals = override_text.find('=');
  const std::string path = override_text.substr(0, equals);
  Setter setter(path, diagnostics);
  const std::optional<std::vector<Step>> steps = ReadPath(path);
  if (equals == std::string::npos || !steps) {
    return setter.Report(absl::StrCat("not an override: '", override_text, "'"),
                         "write PATH=VALUE, like spec.stages[sft].train.lr=1e-5");
  }
  setter.Set(*steps, override_text.substr(equals + 1), root);
}

}  // namespace vlm::spec
