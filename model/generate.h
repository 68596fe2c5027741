// Greedy generation with a key/value cache.
#ifndef VLM_MODEL_GENERATE_H_
#define VLM_MODEL_GENERATE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "base/status.h"
#include "model/graph.h"

namespace vlm::model {

// One prompt, already tokenized and expanded: every image takes its image tokens in `ids`.
struct Prompt {
  std::vector<int64_t> ids;
  at::Tensor pixels;                // [images, 3, height, width] fp32, or undefined
  std::vector<int64_t> image_rows;  // positions in `ids` the vision tokens replace, images in order
};

struct GenerateOptions {
  int64_t max_new_tokens = 32;
  std::vector<int64_t> stop_ids;            // a stop token ends an answer and is not part of it
  int64_t batch_prompts = 32;               // prompts decoded together; bounds the cache
  int64_t context_max = 0;                  // tokens of a prompt and its answer together; 0: as many as they have
  std::function<void()> advance = nullptr;  // called after each forward, when set
};

// Parameters of a node in Node::params order; called once per node per generation. ParameterStore::Views fits.
using NodeParams = std::function<Params(NodeId)>;

// The answer tokens of each prompt, in prompt order. Every step takes the token with the largest logit (the lowest
// id among equals). Results do not depend on batch_prompts up to rounding: a row's logits agree within 1e-5
// relative with an uncached forward. Runs without gradients on the calling thread.
// INVALID_ARGUMENT: an empty prompt, one that leaves no room in context_max, or image rows that do not match the pixels
// (names the prompt).
absl::StatusOr<std::vector<std::vector<int64_t>>> GreedyGenerate(const Graph& graph, const NodeParams& params,
                                                                 const std::vector<Prompt>& prompts,
                                                                 const GenerateOptions& options);

// Forward of all live nodes for one micro-batch, without gradients. Returns every value by ValueId (undefined where a
// node was absent or nothing needs it). With `caches` (one per node, null where the node has none) phases kPrefill and
// kDecode fill and read them. For scoring, tests and generation; training has its own schedule.
Values ForwardGraph(const Graph& graph, const NodeParams& params, const MicroBatch& batch, Phase phase,
                    const std::vector<LayerCache*>& caches, const std::vector<ValueId>& wanted);

}  // namespace vlm::model

#endif  // VLM_MODEL_GENERATE_H_
