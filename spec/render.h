// A document as YAML text with the origin of every value.
#ifndef VLM_SPEC_RENDER_H_
#define VLM_SPEC_RENDER_H_

#include <string>

#include "spec/yaml_node.h"

namespace vlm::spec {

// Maps and lists of maps as blocks, lists of scalars on one line; behind each value "# from FILE:LINE" or
// "# default". Reading the text again gives the same tree but for the places.
std::string RenderYaml(const YamlNode& root);

}  // namespace vlm::spec

#endif  // VLM_SPEC_RENDER_H_
