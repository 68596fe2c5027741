#include "train/collectives/ordered_sum.h"

#include <algorithm>
#include <bit>

namespace vlm::train {
namespace {

constexpr int64_t kPiece = 8192;  // elements: 32 KiB of accumulator stay in the first-level cache

void AddFloats(float* __restrict accumulator, const float* __restrict source, int64_t count) {
  for (int64_t i = 0; i < count; ++i) accumulator[i] += source[i];
}

void AddBfloats(float* __restrict accumulator, const uint16_t* __restrict source, int64_t count) {
  for (int64_t i = 0; i < count; ++i) accumulator[i] += std::bit_cast<float>(uint32_t{source[i]} << 16);
}

}  // namespace

void AddInOrder(float* accumulator, const std::vector<const std::byte*>& sources, ElementType type, int64_t count) {
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t piece = std::min(kPiece, count - begin);
    for (const std::byte* const source : sources) {
      if (type == ElementType::kFloat32) {
        AddFloats(accumulator + begin, reinterpret_cast<const float*>(source) + begin, piece);
      } else {
        AddBfloats(accumulator + begin, reinterpret_cast<const uint16_t*>(source) + begin, piece);
      }
    }
  }
}

}  // namespace vlm::train
