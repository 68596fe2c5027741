// The two passes of a resize as plain functions over rows; nothing outside this folder includes it.
#ifndef VLM_DATA_IMAGE_RESAMPLE_KERNELS_H_
#define VLM_DATA_IMAGE_RESAMPLE_KERNELS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace vlm::data {

// Fractional bits of a weight: 32 less 8 of the pixel less 2 of head room for negative lobes (Pillow's
// PRECISION_BITS).
inline constexpr int kWeightBits = 32 - 8 - 2;

// For each output position the inputs it reads, first[i] .. first[i] + count[i] - 1, and their weights,
// weights[i * taps_max + t], zero from count[i] on.
struct ResampleWeights {
  size_t outputs = 0;
  size_t taps_max = 0;
  std::vector<int32_t> first;
  std::vector<int32_t> count;
  std::vector<int32_t> weights;
};

// A picture's bytes: `rows` rows of `row_bytes`, one behind the other.
struct ByteRows {
  std::span<const uint8_t> bytes;
  size_t rows = 0;
  size_t row_bytes = 0;
};

// Along the rows: `in` has RGB pixels, `out` gets in.rows rows of weights.outputs RGB pixels.
void ResampleRowsPortable(const ByteRows& in, const ResampleWeights& weights, std::span<uint8_t> out);
void ResampleRowsAvx2(const ByteRows& in, const ResampleWeights& weights, std::span<uint8_t> out);

// Down the columns: `out` gets weights.outputs rows of in.row_bytes.
void ResampleColumnsPortable(const ByteRows& in, const ResampleWeights& weights, std::span<uint8_t> out);
void ResampleColumnsAvx2(const ByteRows& in, const ResampleWeights& weights, std::span<uint8_t> out);

// Whether the Avx2 functions were built and this processor runs them.
bool HasAvx2Kernels();

}  // namespace vlm::data

#endif  // VLM_DATA_IMAGE_RESAMPLE_KERNELS_H_
