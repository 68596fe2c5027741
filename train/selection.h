// Patterns of the job file that name parameters: what trains, and which learning rate and decay apply.
#ifndef VLM_TRAIN_SELECTION_H_
#define VLM_TRAIN_SELECTION_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/graph.h"

namespace vlm::train {

// The parameters that one pattern names, one entry per parameter of the graph. A pattern is
//   a node name or a prefix of it at a dot      "connector", "llm", "llm.blocks.3", "llm.blocks"
//   a range of numbered nodes, as in Python     "llm.blocks[-4:]", "vision.blocks[0:2]", "llm.blocks[7]"
//   a parameter name or a prefix at a dot       "language_model.model.embed_tokens"
//   a whole parameter name with * and ?         "*.bias", "*norm*"
// A tied parameter is named by any node that uses it. INVALID_ARGUMENT: a malformed pattern, or one that names
// nothing (the message lists what could be named).
absl::StatusOr<std::vector<bool>> SelectParameters(const model::Graph& graph, std::string_view pattern);

// The parameters whose whole name a glob matches: * stands for any number of characters, ? for one, every other
// character for itself. INVALID_ARGUMENT when it matches none (the message lists names).
absl::StatusOr<std::vector<bool>> SelectByGlob(const model::Graph& graph, std::string_view glob);

// The union of several patterns; an empty list names every parameter.
absl::StatusOr<std::vector<bool>> SelectTrainable(const model::Graph& graph, const std::vector<std::string>& patterns);

}  // namespace vlm::train

#endif  // VLM_TRAIN_SELECTION_H_
