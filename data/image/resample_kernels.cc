#include "data/image/resample_kernels.h"

#include <algorithm>

namespace vlm::data {
namespace {

constexpr int32_t kHalf = 1 << (kWeightBits - 1);

uint8_t ToByte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255)); }

}  // namespace

void ResampleRowsPortable(const ByteRows& in, const ResampleWeights& weights, std::span<uint8_t> out) {
  uint8_t* to = out.data();
  for (size_t y = 0; y < in.rows; ++y) {
    const uint8_t* row = in.bytes.data() + y * in.row_bytes;
    for (size_t x = 0; x < weights.outputs; ++x, to += 3) {
      const int32_t* weight = weights.weights.data() + x * weights.taps_max;
      const uint8_t* pixel = row + 3 * weights.first[x];
      int32_t sum[3] = {kHalf, kHalf, kHalf};
      for (int32_t t = 0; t < weights.count[x]; ++t, pixel += 3) {
        for (size_t c = 0; c < 3; ++c) sum[c] += pixel[c] * weight[t];
      }
      for (size_t c = 0; c < 3; ++c) to[c] = ToByte(sum[c]);
    }
  }
}

void ResampleColumnsPortable(const ByteRows& in, const ResampleWeights& weights, std::span<uint8_t> out) {
  for (size_t y = 0; y < weights.outputs; ++y) {
    const int32_t* weight = weights.weights.data() + y * weights.taps_max;
    const uint8_t* column = in.bytes.data() + static_cast<size_t>(weights.first[y]) * in.row_bytes;
    uint8_t* to = out.data() + y * in.row_bytes;
    for (size_t x = 0; x < in.row_bytes; ++x) {
      int32_t sum = kHalf;
      for (int32_t t = 0; t < weights.count[y]; ++t) {
        sum += column[static_cast<size_t>(t) * in.row_bytes + x] * weight[t];
      }
      to[x] = ToByte(sum);
    }
  }
}

}  // namespace vlm::data
