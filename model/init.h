// Starting values of parameters.
#ifndef VLM_MODEL_INIT_H_
#define VLM_MODEL_INIT_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/graph.h"

namespace vlm::model {

// fp32 CPU tensor of spec.shape. A pure function of (spec, seed): element i comes from the Philox stream
// hash(seed, spec.name) at counter i / 4, so neither construction order nor thread count matters.
at::Tensor Initialize(const ParamSpec& spec, uint64_t seed);

}  // namespace vlm::model

#endif  // VLM_MODEL_INIT_H_
