// Draws scenes; nothing outside this folder includes it.
#ifndef VLM_DATA_SHAPES_SHAPES_DRAWING_H_
#define VLM_DATA_SHAPES_SHAPES_DRAWING_H_

#include <cstdint>

#include "base/random.h"
#include "data/image/image.h"
#include "data/shapes/shapes_generator.h"

namespace vlm::data {

// A picture of `scene` with size, background, exact positions, sizes, angles, tints and noise drawn from `key`.
// Integer arithmetic throughout, so that equal arguments give equal pixels with every compiler and processor.
Image DrawScene(const ShapesScene& scene, const ShapesOptions& options, RngKey key);

// A picture of nothing, all kBlankGrey: about zero once an encoder's settings have normalised it.
Image DrawBlank(const ShapesOptions& options, RngKey key);
inline constexpr uint8_t kBlankGrey = 127;

}  // namespace vlm::data

#endif  // VLM_DATA_SHAPES_SHAPES_DRAWING_H_
