#include "spec/stage_graph.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "spec/check.h"
#include "spec/parse.h"
#include "spec/scalar.h"
#include "spec/schema.h"
#include "spec/value_path.h"

namespace vlm::spec {
namespace {

struct Reference {
  std::string target;
  std::string path;
  Place at;
  const Field* row;
};

struct StageNode {
  YamlNode* node = nullptr;
  std::string name;  // empty when it is missing or ill-formed
  std::string kind;
  std::string path;  // "spec.stages[sft]"
  std::vector<Reference> references;
};

// Every scalar below `node` whose row is the name of a stage.
void Collect(const YamlNode& node, const SchemaNode& schema, KindMask kinds, const ValuePath& path,
             std::vector<Reference>* out) {
  const Field* row = schema.Row(kinds);
  if (row == nullptr) return;
  if (row->type == ValueType::kStage && node.is_scalar() && IsName(node.scalar)) {
    out->push_back({node.scalar, path.Text(), node.at, row});
  }
  for (const YamlEntry& entry : node.entries) {
    const SchemaNode* child = schema.Child(entry.key);
    if (child != nullptr) Collect(entry.value, *child, kinds, ValuePath(path, entry.key), out);
  }
  const SchemaNode* element = schema.Child("[]");
  for (size_t i = 0; element != nullptr && i < node.items.size(); ++i) {
    Collect(node.items[i], *element, kinds, ValuePath(path, node.items[i], i), out);
  }
}

bool IsLowerName(const std::string& name) {
  return std::none_of(name.begin(), name.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

class GraphResolver {
 public:
  explicit GraphResolver(Diagnostics* diagnostics) : diagnostics_(diagnostics) {}

  std::vector<std::vector<std::string>> Resolve(YamlNode* stages) {
    for (size_t i = 0; i < stages->items.size(); ++i) AddStage(&stages->items[i], i);
    std::vector<std::vector<std::string>> needs;
    for (StageNode& stage : stages_) needs.push_back(Parents(stage));
    ReportCycles(needs);
    for (size_t i = 0; i < stages_.size(); ++i) WriteNeeds(stages_[i], needs[i]);
    return needs;
  }

 private:
  void Report(const Place& at, const std::string& path, std::string message, std::string suggestion = "") {
    diagnostics_->Add({path, at.ToPosition(), std::move(message), std::move(suggestion)});
  }

  void AddStage(YamlNode* node, size_t number) {
    StageNode stage;
    stage.node = node;
    stage.path = absl::StrCat("spec.stages[", ElementName(*node, number), "]");
    const YamlNode* kind = node->Find("kind");
    if (kind != nullptr && kind->is_scalar()) stage.kind = kind->scalar;
    const YamlNode* name = node->Find("name");
    if (name != nullptr && name->is_scalar() && IsName(name->scalar)) {
      if (!IsLowerName(name->scalar)) {
        Report(name->at, absl::StrCat(stage.path, ".name"), absl::StrCat("not a stage name: '", name->scalar, "'"),
               "write it in lower-case letters");
      }
      const auto [first, added] = by_name_.emplace(name->scalar, stages_.size());
      if (added) {
        stage.name = name->scalar;
      } else {
        Report(name->at, absl::StrCat(stage.path, ".name"), absl::StrCat("duplicate stage name: '", name->scalar, "'"),
               absl::StrCat("it stands already in line ", stages_[first->second].node->Find("name")->at.line));
      }
    }
    Collect(*node, *FindSchemaNode("spec.stages[]"), KindOf(*node), ValuePath(stage.path), &stage.references);
    stages_.push_back(std::move(stage));
  }

  // Parents that exist, in the order of the stages.
  std::vector<std::string> Parents(const StageNode& stage) {
    std::set<size_t> parents;
    for (const Reference& reference : stage.references) {
      const auto found = by_name_.find(reference.target);
      if (found == by_name_.end()) {
        ReportMissing(reference);
        continue;
      }
      const StageNode& parent = stages_[found->second];
      if (&parent == &stage) {
        Report(reference.at, reference.path, absl::StrCat("a stage cannot need itself: '", stage.name, "'"));
        continue;
      }
      const std::vector<std::string_view> fitting = SplitChoices(reference.row->choices);
      if (!fitting.empty() && std::find(fitting.begin(), fitting.end(), parent.kind) == fitting.end()) {
        Report(reference.at, reference.path,
               absl::StrCat("stage '", parent.name, "' is of kind '", parent.kind, "' and does not fit here"),
               absl::StrCat("name a stage of kind ",
                            absl::StrReplaceAll(std::string(reference.row->choices), {{"|", " or "}})));
        continue;
      }
      parents.insert(found->second);
    }
    std::vector<std::string> names;
    for (const size_t parent : parents) names.push_back(stages_[parent].name);
    return names;
  }

  void ReportMissing(const Reference& reference) {
    std::vector<std::string> known;
    for (const auto& [name, index] : by_name_) known.push_back(name);
    const std::string nearest = Nearest(reference.target, known);
    Report(reference.at, reference.path, absl::StrCat("no such stage: '", reference.target, "'"),
           nearest.empty() ? absl::StrCat("stages: ", absl::StrJoin(known, ", "))
                           : absl::StrCat("did you mean '", nearest, "'?"));
  }

  // Each cycle once, by depth-first search; recursion is bounded by kStagesMax.
  void ReportCycles(const std::vector<std::vector<std::string>>& needs) {
    std::vector<int> state(stages_.size(), 0);  // 0 new, 1 on the way, 2 done
    std::vector<size_t> way;
    for (size_t i = 0; i < stages_.size(); ++i) {
      if (state[i] == 0) Visit(i, needs, &state, &way);
    }
  }

  void Visit(size_t stage, const std::vector<std::vector<std::string>>& needs, std::vector<int>* state,
             std::vector<size_t>* way) {
    (*state)[stage] = 1;
    way->push_back(stage);
    for (const std::string& parent_name : needs[stage]) {
      const size_t parent = by_name_.at(parent_name);
      if ((*state)[parent] == 0) {
        Visit(parent, needs, state, way);
      } else if ((*state)[parent] == 1) {
        ReportCycle({std::find(way->begin(), way->end(), parent), way->end()});
      }
    }
    way->pop_back();
    (*state)[stage] = 2;
  }

  void ReportCycle(const std::vector<size_t>& cycle) {
    std::vector<std::string> names;
    for (const size_t stage : cycle) names.push_back(stages_[stage].name);
    names.push_back(names.front());
    const StageNode& first = stages_[cycle.front()];
    const std::string& next = names[1];
    const auto edge = std::find_if(first.references.begin(), first.references.end(),
                                   [&](const Reference& reference) { return reference.target == next; });
    Report(edge->at, edge->path, absl::StrCat("stages need each other in a cycle: ", absl::StrJoin(names, " -> ")),
           "remove one of these needs");
  }

  static void WriteNeeds(StageNode& stage, const std::vector<std::string>& parents) {
    YamlNode* needs = stage.node->Find("needs");
    if (needs == nullptr || !needs->is_list()) return;
    std::vector<YamlNode> items;
    for (const std::string& parent : parents) {
      // A stated need keeps its own place, an implied one that of the reference.
      const auto stated = std::find_if(needs->items.begin(), needs->items.end(),
                                       [&](const YamlNode& item) { return item.scalar == parent; });
      const auto implied = std::find_if(stage.references.begin(), stage.references.end(),
                                        [&](const Reference& reference) { return reference.target == parent; });
      items.push_back(ScalarNode(parent, stated != needs->items.end() ? stated->at : implied->at));
    }
    if (!needs->at.known() && !items.empty()) needs->at = items.front().at;
    needs->items = std::move(items);
  }

  Diagnostics* const diagnostics_;
  std::vector<StageNode> stages_;
  std::map<std::string, size_t, std::less<>> by_name_;
};

}  // namespace

std::vector<std::vector<std::string>> ResolveStageGraph(YamlNode* root, Diagnostics* diagnostics) {
  YamlNode* spec = root->Find("spec");
  YamlNode* stages = spec == nullptr ? nullptr : spec->Find("stages");
  if (stages == nullptr || !stages->is_list() || stages->items.size() > kStagesMax) return {};
  return GraphResolver(diagnostics).Resolve(stages);
}

}  // namespace vlm::spec
