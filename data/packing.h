// Packs: several documents in one row of at most `context` tokens.
#ifndef VLM_DATA_PACKING_H_
#define VLM_DATA_PACKING_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"

namespace vlm::data {

// Items of one pack, as indices into the lengths given; ascending.
using Pack = std::vector<uint32_t>;

// Best-fit decreasing over one window: every item lands in exactly one pack and no pack exceeds `capacity`.
// The packs come in an order shuffled by `key`, because packs made early are fuller than packs made late.
// Pure. Requires 0 < length <= capacity for every item.
std::vector<Pack> PackWindow(std::span<const uint32_t> lengths, uint32_t capacity, RngKey key);

}  // namespace vlm::data

#endif  // VLM_DATA_PACKING_H_
