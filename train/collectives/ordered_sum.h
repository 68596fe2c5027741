// The one definition of how contributions are added, shared by every CPU backend.
#ifndef VLM_TRAIN_COLLECTIVES_ORDERED_SUM_H_
#define VLM_TRAIN_COLLECTIVES_ORDERED_SUM_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"

namespace vlm::train {

enum class ElementType { kFloat32, kBfloat16 };

// accumulator[i] = (...((accumulator[i] + sources[0][i]) + sources[1][i]) + ...), each addition in fp32, for
// count elements. Sources are fp32 or bf16 (widened exactly). Works in pieces that stay in cache.
void AddInOrder(float* accumulator, const std::vector<const std::byte*>& sources, ElementType type, int64_t count);

}  // namespace vlm::train

#endif  // VLM_TRAIN_COLLECTIVES_ORDERED_SUM_H_
