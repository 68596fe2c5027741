// The one way from a document to a job, shared by parsing and composing.
#ifndef VLM_SPEC_ELABORATE_H_
#define VLM_SPEC_ELABORATE_H_

#include <optional>

#include "spec/diagnostic.h"
#include "spec/job.h"
#include "spec/yaml_node.h"

namespace vlm::spec {

// Inserts what composition inserts, checks everything, completes `root` in place. Nothing when `diagnostics`
// got an error; `diagnostics` is sorted by place.
std::optional<Job> ElaborateJob(YamlNode* root, Diagnostics* diagnostics);

}  // namespace vlm::spec

#endif  // VLM_SPEC_ELABORATE_H_
