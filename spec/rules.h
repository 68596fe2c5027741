// Rules between fields, over values that fit the schema one by one.
#ifndef VLM_SPEC_RULES_H_
#define VLM_SPEC_RULES_H_

#include <optional>
#include <vector>

#include "spec/diagnostic.h"
#include "spec/job.h"
#include "spec/yaml_node.h"

namespace vlm::spec {

// `stages` by index in spec.stages of `root`; absent where something does not fit the schema. Reports what
// contradicts itself within a stage, and between a stage and its parents.
void CheckRules(const YamlNode& root, const std::vector<std::optional<Stage>>& stages, Diagnostics* diagnostics);

// Rules of the fields above the stages: job name, ranks, artifacts.
void CheckJobRules(const YamlNode& root, Diagnostics* diagnostics);

}  // namespace vlm::spec

#endif  // VLM_SPEC_RULES_H_
