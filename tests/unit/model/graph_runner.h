// A plain engine for tests: parameters in a flat buffer or apart, one micro-batch forward and backward.
#ifndef VLM_TESTS_UNIT_MODEL_GRAPH_RUNNER_H_
#define VLM_TESTS_UNIT_MODEL_GRAPH_RUNNER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "model/graph.h"
#include "model/llava_config.h"

namespace vlm::model::testing {

// Odd shapes: head size is not hidden/heads, one key/value head for four, odd vocabulary.
LlavaConfig SmallLlava();
// Large enough that ATen splits its loops and MKL its products over threads.
LlavaConfig WideLlava();

enum class Layout { kFlat, kApart };  // kFlat: node by node, 64-element aligned, as buckets are

// Values of a graph's parameters. Norms and biases are moved off their starting values so that they matter.
struct ParameterSet {
  std::vector<at::Tensor> tensors;  // by ParamId
  Params Of(const Graph& graph, NodeId node) const;
};
ParameterSet RandomParameters(const Graph& graph, uint64_t seed, at::ScalarType type, Layout layout);
// Zeroed tensors of the parameters' shapes, laid out the same way.
ParameterSet ZeroSlots(const Graph& graph, at::ScalarType type, Layout layout);

struct DocumentShape {
  int64_t tokens = 0;
  int64_t images = 0;  // at the front of the document
};
enum class Text {
  kRandom,   // cannot be learned but by heart
  kChained,  // an id says which one is next, so batches that were never seen before are learned too
};
// Random pixels and ids, or their documents' first ids; every text position but a document's last has the next id as
// its target.
MicroBatch RandomBatch(const LlavaConfig& config, const std::vector<DocumentShape>& documents, uint64_t seed,
                       Text text = Text::kRandom);

struct PassOptions {
  Save save = Save::kGraph;
  bool known_coefficients = false;  // the head works in one pass
  std::set<std::string> frozen;     // groups: "llm", "vision", "connector"
  double smoothing = 0.0;
  Layout slots = Layout::kFlat;
};
struct PassResult {
  double loss = 0;                    // sum of weight * cross-entropy, in fp64
  Values values;                      // by ValueId
  std::vector<at::Tensor> gradients;  // by ParamId; undefined where frozen
};
PassResult RunPass(const Graph& graph, const ParameterSet& parameters, const MicroBatch& batch,
                   const PassOptions& options);

}  // namespace vlm::model::testing

#endif  // VLM_TESTS_UNIT_MODEL_GRAPH_RUNNER_H_
