// How stages refer to each other: parents that exist, of kinds that fit, without a cycle.
#ifndef VLM_SPEC_STAGE_GRAPH_H_
#define VLM_SPEC_STAGE_GRAPH_H_

#include <string>
#include <vector>

#include "spec/diagnostic.h"
#include "spec/yaml_node.h"

namespace vlm::spec {

// Requires a document CheckJob has completed; it may have had errors. Reports duplicate and ill-formed stage
// names, references to missing stages or to stages of a kind that does not fit, and cycles. Writes every stage's
// parents, stated and implied, into its `needs` in the order of the stages and returns them by stage index.
std::vector<std::vector<std::string>> ResolveStageGraph(YamlNode* root, Diagnostics* diagnostics);

}  // namespace vlm::spec

#endif  // VLM_SPEC_STAGE_GRAPH_H_
