// Resizing with the pixels of Pillow's Image.resize, byte for byte, and the trivial crops around it.
#ifndef VLM_DATA_IMAGE_RESAMPLE_H_
#define VLM_DATA_IMAGE_RESAMPLE_H_

#include <array>
#include <cstdint>

#include "base/status.h"
#include "data/image/image.h"

namespace vlm::data {

enum class ResampleFilter {
  kBilinear,  // triangle of radius 1
  kBicubic,   // Keys' cubic with a = -1/2, radius 2
};

// Which inner loops run. Both give equal bytes; kPortable is the readable definition.
enum class ResampleKernel { kFastest, kPortable };

// The longest side of a result, and the most pixels of the result and of the picture between the passes
// (768 MiB each).
inline constexpr int kResizeSideMax = 65'500;
inline constexpr int64_t kResizePixelsMax = int64_t{1} << 28;

// Equal to Pillow 13's Image.resize((width, height), filter) of an RGB image (python-pillow,
// src/libImaging/Resample.c): the filter's radius grows with the reduction; weights are normalised in double
// and rounded to 22 fractional bits; one pass along the rows, one down the columns, with a rounding to 8 bits after
// each; a pass that does not change its side is left out. Rows come first, unless the height shrinks by more than
// twice as many pixels as the width does (new in Pillow 13; older versions differ there in the last bit).
// INVALID_ARGUMENT unless `image` has pixels and 1 <= width, height <= kResizeSideMax; RESOURCE_EXHAUSTED above
// kResizePixelsMax. Thread-safe.
absl::StatusOr<Image> Resize(const Image& image, int width, int height, ResampleFilter filter,
                             ResampleKernel kernel = ResampleKernel::kFastest);

// The size that makes the shorter side `shortest_edge`, keeping the ratio: the longer side is
// int(shortest_edge * longer / shorter), as transformers' get_resize_output_image_size does.
struct ImageSize {
  int width = 0;
  int height = 0;
};
ImageSize ShortestEdgeSize(int width, int height, int shortest_edge);

// The middle width x height part; where `image` is smaller, black is added on both sides. Offsets as in
// transformers' center_crop: top = (image.height - height) / 2, left likewise; padding puts the odd pixel
// before the picture. Requires positive sizes.
Image CenterCrop(const Image& image, int width, int height);

// A square with side max(width, height) filled with `fill` and the picture in its middle (LLaVA's
// expand2square): offset (side - height) / 2 or (side - width) / 2, rounded down.
Image PadToSquare(const Image& image, std::array<uint8_t, 3> fill);

}  // namespace vlm::data

#endif  // VLM_DATA_IMAGE_RESAMPLE_H_
