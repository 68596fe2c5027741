// Holds a document against the schema: reports what does not fit, fills in defaults, makes typed JSON.
#ifndef VLM_SPEC_CHECK_H_
#define VLM_SPEC_CHECK_H_

#include <vector>

#include "spec/checked_json.h"
#include "spec/diagnostic.h"
#include "spec/schema.h"
#include "spec/yaml_node.h"

namespace vlm::spec {

struct Checked {
  CheckedJson json;              // of the schema's types; what did not fit is null or missing
  std::vector<bool> stage_fits;  // by index in spec.stages: nothing is wrong within it
};

// Checks a whole job and completes `root` in place: defaults are appended with an unknown place. References
// between stages and rules between fields are not looked at.
Checked CheckJob(YamlNode* root, Diagnostics* diagnostics);

// The same for one stage on its own; values a job would hand down are missing keys here.
CheckedJson CheckStage(YamlNode* stage, Diagnostics* diagnostics);

// The bit of a stage's kind; every kind when it is missing or unknown.
KindMask KindOf(const YamlNode& stage);

}  // namespace vlm::spec

#endif  // VLM_SPEC_CHECK_H_
