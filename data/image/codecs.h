// The two codecs behind image.h; nothing outside this folder includes it.
#ifndef VLM_DATA_IMAGE_CODECS_H_
#define VLM_DATA_IMAGE_CODECS_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "data/image/image.h"

namespace vlm::data {

absl::StatusOr<ImageHeader> ReadJpegHeader(std::span<const std::byte> bytes);
absl::StatusOr<ImageHeader> ReadPngHeader(std::span<const std::byte> bytes);

// `header` is what the matching Read...Header gave for `bytes`, already checked against the limits.
absl::StatusOr<Image> DecodeJpeg(std::span<const std::byte> bytes, const ImageHeader& header);
absl::StatusOr<Image> DecodePng(std::span<const std::byte> bytes, const ImageHeader& header);

// The orientation tag (0x0112) of the first directory of a TIFF structure, as EXIF stores it; 1 when absent,
// malformed or outside 1..8.
int OrientationOfExif(std::span<const std::byte> tiff);

}  // namespace vlm::data

#endif  // VLM_DATA_IMAGE_CODECS_H_
