// `--set path=value` on a document.
#ifndef VLM_SPEC_OVERRIDE_H_
#define VLM_SPEC_OVERRIDE_H_

#include <string>

#include "spec/diagnostic.h"
#include "spec/yaml_node.h"

namespace vlm::spec {

// Missing maps on the way are made, missing list entries are not. An empty or null value removes the key.
// Reports what is wrong with the override itself; whether the schema knows the key shows in the check.
void ApplyOverride(const std::string& override_text, YamlNode* root, Diagnostics* diagnostics);

}  // namespace vlm::spec

#endif  // VLM_SPEC_OVERRIDE_H_
