// From 8-bit pixels to the floats a vision model reads.
#ifndef VLM_DATA_IMAGE_NORMALISE_H_
#define VLM_DATA_IMAGE_NORMALISE_H_

#include <array>
#include <span>
#include <vector>

#include "base/status.h"
#include "data/image/image.h"

namespace vlm::data {

struct Normalisation {
  double rescale = 1.0 / 255.0;                    // rescale_factor of preprocessor_config.json
  std::array<float, 3> mean = {0.5F, 0.5F, 0.5F};  // image_mean, per R G B
  std::array<float, 3> std = {0.5F, 0.5F, 0.5F};   // image_std, each > 0
};

// CHW floats, shape [3, height, width] flattened:
//   out[c][y][x] = (float(double(pixel) * rescale) - mean[c]) / std[c], in fp32 after the first rounding:
// the order and types of transformers' Pillow image processors (rescale, then normalize), equal to the bit.
// INVALID_ARGUMENT when a std is not positive or `image` has no pixels. Thread-safe.
absl::StatusOr<std::vector<float>> Normalise(const Image& image, const Normalisation& normalisation);

// The same into `out`, which must hold 3 * width * height floats (INVALID_ARGUMENT otherwise).
absl::Status NormaliseInto(const Image& image, const Normalisation& normalisation, std::span<float> out);

}  // namespace vlm::data

#endif  // VLM_DATA_IMAGE_NORMALISE_H_
