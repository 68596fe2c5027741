// A reader for the plain form of YAML that RenderYaml writes, which is what arrives with every submit: some twenty
// times as fast as yaml-cpp, which reads everything else.
#ifndef VLM_SPEC_PLAIN_YAML_H_
#define VLM_SPEC_PLAIN_YAML_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "spec/yaml_node.h"

namespace vlm::spec {

// Block maps and block lists indented by spaces, keys that are plain words, scalars that are plain words or one line in
// double quotes, lists of scalars on one line, "{}", "null", comments. Nothing for every other text, valid or not, also
// where the tree would have an error (duplicate keys, too deep): the caller reads that with yaml-cpp, which says why.
// Where it gives a tree, yaml-cpp gives the same one with the same places. `text` has passed the check of its bytes
// (ReadYaml). Linear in the text. Thread-safe.
std::optional<YamlNode> ReadPlainYaml(std::string_view text, const std::shared_ptr<const std::string>& source);

}  // namespace vlm::spec

#endif  // VLM_SPEC_PLAIN_YAML_H_
