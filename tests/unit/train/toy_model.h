// A small LLaVA-shaped graph for tests of the engine: tied embedding and head, an optional picture branch, a value with
// two consumers, a parameter that no result needs.
#ifndef VLM_TESTS_UNIT_TRAIN_TOY_MODEL_H_
#define VLM_TESTS_UNIT_TRAIN_TOY_MODEL_H_

#include <cstdint>
#include <vector>

#include "model/graph.h"
#include "train/parameter_store.h"

namespace vlm::train {

struct ToyOptions {
  int64_t vocabulary = 37, hidden = 24;
  int blocks = 3;
};

//   llm.embed -> merge -> llm.blocks.0 ... -> llm.head (tied; also reads the merged embeddings)
//   vision.embed -> connector -> merge     (with images only)
//   vision.embed -> vision.post            (reaches no result)
model::Graph ToyGraph(const ToyOptions& options = {});

// Micro-batch m of a step: 5 to 12 tokens; `images` of 0 to 2. A pure function of its arguments.
model::MicroBatch ToyBatch(const ToyOptions& options, uint64_t step, int64_t m, int64_t images);

// Writes every parameter from its name's stream.
void InitializeToy(uint64_t seed, ParameterStore* store);

}  // namespace vlm::train

#endif  // VLM_TESTS_UNIT_TRAIN_TOY_MODEL_H_
