#include "model/graph.h"

#include <algorithm>
#include <set>

namespace vlm::model {
namespace {

std::string DimName(const Dim& dim) {
  if (const auto* number = std::get_if<int64_t>(&dim)) return std::to_string(*number);
  switch (std::get<Axis>(dim)) {
    case Axis::kTokens:
      return "tokens";
    case Axis::kTargets:
      return "targets";
    case Axis::kDocuments:
      return "documents";
    case Axis::kImages:
      return "images";
    case Axis::kVisionTokens:
      return "vision_tokens";
  }
  return "?";
}

template <typename T, typename Name>
std::string Join(const std::vector<T>& items, const char* separator, Name name) {
  std::string text;
  for (const T& item : items) {
    if (!text.empty()) text += separator;
    text += name(item);
  }
  return text;
}

std::string ShapeName(const std::vector<int64_t>& shape) {
  return "[" + Join(shape, ", ", [](int64_t size) { return std::to_string(size); }) + "]";
}

absl::Status Refuse(const std::string& node, const std::string& what) {
  return absl::InvalidArgumentError("cannot add node to the graph: " + what + "; node " + node);
}

}  // namespace

Footprint Unit::Needs(const Counts&, int64_t) const { return {}; }

absl::Status Graph::Add(std::string name, std::unique_ptr<Unit> unit, Presence when) {
  const auto same_name = [&](const Node& node) { return node.name == name; };
  if (std::any_of(nodes.begin(), nodes.end(), same_name)) return Refuse(name, "a node of this name exists");
  Declaration declared = unit->Declare();
  // Everything is checked before anything is added, so a refused node leaves the graph as it was.
  std::vector<ValueId> in;
  for (const std::string& input : declared.inputs) {
    const ValueId id = FindValue(input);
    if (id == kNone) return Refuse(name, "no earlier node makes its input \"" + input + "\"");
    in.push_back(id);
  }
  std::set<std::string> outputs;
  for (const ValueSpec& output : declared.outputs) {
    if (FindValue(output.name) != kNone || !outputs.insert(output.name).second) {
      return Refuse(name, "value \"" + output.name + "\" is made twice");
    }
  }
  std::set<std::string> names;
  for (const ParamSpec& spec : declared.params) {
    if (!names.insert(spec.name).second) return Refuse(name, "it declares parameter \"" + spec.name + "\" twice");
    const ParamId known = FindParam(spec.name);
    if (known != kNone && (params[known].shape != spec.shape || params[known].encoding != spec.encoding)) {
      return Refuse(name, "parameter \"" + spec.name + "\" is tied with another shape: " + ShapeName(spec.shape) +
                              " here, " + ShapeName(params[known].shape) + " before");
    }
  }
  Node node{std::move(name), std::move(unit), {}, std::move(in), {}, when};
  for (ParamSpec& spec : declared.params) {
    ParamId id = FindParam(spec.name);
    if (id == kNone) {
      id = static_cast<ParamId>(params.size());
      params.push_back(std::move(spec));
    }
    node.params.push_back(id);
  }
  for (ValueSpec& output : declared.outputs) {
    node.out.push_back(static_cast<ValueId>(values.size()));
    values.push_back(std::move(output));
  }
  nodes.push_back(std::move(node));
  return absl::OkStatus();
}

ParamId Graph::FindParam(const std::string& name) const {
  const auto found = std::find_if(params.begin(), params.end(), [&](const ParamSpec& p) { return p.name == name; });
  return found == params.end() ? kNone : static_cast<ParamId>(found - params.begin());
}

ValueId Graph::FindValue(const std::string& name) const {
  const auto found = std::find_if(values.begin(), values.end(), [&](const ValueSpec& v) { return v.name == name; });
  return found == values.end() ? kNone : static_cast<ValueId>(found - values.begin());
}

std::string Graph::ToString() const {
  std::string text;
  for (const Node& node : nodes) {
    int64_t elements = 0;
    for (const ParamId id : node.params) {
      int64_t count = 1;
      for (const int64_t size : params[id].shape) count *= size;
      elements += count;
    }
    const auto value_name = [this](ValueId id) { return values[id].name; };
    const auto described = [this](ValueId id) {
      return values[id].name + "[" + Join(values[id].shape, ", ", DimName) + "]";
    };
    text += node.name + ": (" + Join(node.in, ", ", value_name) + ") -> (" + Join(node.out, ", ", described) + "), " +
            std::to_string(node.params.size()) + " parameters, " + std::to_string(elements) + " elements" +
            (node.when == Presence::kIfImages ? ", if images" : "") + "\n";
  }
  text += "results: " + Join(results, ", ", [this](ValueId id) { return values[id].name; }) + "\n";
  return text;
}

}  // namespace vlm::model
