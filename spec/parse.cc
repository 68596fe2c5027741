#include "spec/parse.h"

#include "spec/elaborate.h"
#include "spec/yaml_node.h"

namespace vlm::spec {

std::optional<Job> ParseJob(std::string_view text, const std::string& source, Diagnostics* diagnostics) {
  std::optional<YamlNode> root = ReadYaml(text, source, diagnostics);
  if (!root) return std::nullopt;
  return ElaborateJob(&*root, diagnostics);
}

}  // namespace vlm::spec
