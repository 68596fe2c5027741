// Pictures as bytes: decoding and encoding of JPEG and PNG with the pixels Pillow gives.
//
// All functions are pure and thread-safe and keep no state between calls.
#ifndef VLM_DATA_IMAGE_IMAGE_H_
#define VLM_DATA_IMAGE_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace vlm::data {

// Eight bits a channel, rows from the top, pixels from the left, R G B interleaved, no padding:
// rgb.size() == 3 * width * height.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> rgb;
  friend bool operator==(const Image&, const Image&) = default;
};

enum class ImageFormat { kJpeg, kPng };

// The short lower-case name, which is also the file extension: "jpg" or "png".
std::string_view ExtensionOf(ImageFormat format);

// What the header says; width and height are as stored, before any EXIF rotation.
struct ImageHeader {
  ImageFormat format = ImageFormat::kJpeg;
  int width = 0;
  int height = 0;
  int exif_orientation = 1;  // 1..8 as in the EXIF standard; 1 when absent or outside that range
};

// Checked against the header, before memory for pixels is taken.
struct DecodeLimits {
  uint64_t pixels_max = uint64_t{64} << 20;  // width * height; 192 MiB of RGB
  uint64_t bytes_max = uint64_t{64} << 20;   // of the encoded file
};

// kAsStored ignores EXIF. kFollowExif turns and mirrors by the EXIF orientation of the file, as Pillow's
// ImageOps.exif_transpose does for EXIF in a JPEG APP1 segment or a PNG eXIf chunk (XMP is not read).
enum class OrientationRule { kAsStored, kFollowExif };

// Reads the header only. INVALID_ARGUMENT when `bytes` is neither JPEG nor PNG, or its header is cut or broken.
absl::StatusOr<ImageHeader> ReadImageHeader(std::span<const std::byte> bytes);

// Pixels equal, byte for byte, to Pillow's Image.open(...).convert("RGB"):
//   JPEG  baseline and progressive; gray is repeated; CMYK and YCCK are taken as inverted (Adobe's
//         convention, which Pillow assumes for every file) and turned into RGB by Pillow's formula.
//   PNG   1 to 16 bits; gray, palette, RGB, with or without alpha or interlacing. Alpha and transparent
//         colours are dropped, not composed; gamma is ignored. Of 16 bits the high byte is kept, but 16-bit gray
//         without alpha is clipped at 255, as Pillow does.
// Stricter than Pillow in one thing: a PNG is refused when its picture data has a wrong CRC or has lost its last
// bytes, even if every row could be read.
// Errors: INVALID_ARGUMENT for an unknown format or a broken or truncated file; RESOURCE_EXHAUSTED when a limit
// is exceeded; UNIMPLEMENTED for a kind of file that is refused (12-bit, arithmetic or lossless JPEG).
absl::StatusOr<Image> DecodeImage(std::span<const std::byte> bytes, const DecodeLimits& limits,
                                  OrientationRule rule = OrientationRule::kAsStored);

// Turns `image` so that a picture stored with EXIF `orientation` (1..8; others count as 1) is upright.
Image ApplyExifOrientation(Image image, int orientation);

enum class JpegSubsampling { k444, k420 };

// Baseline JPEG. Requires 1 <= quality <= 100 and sides of 1 to 65,500; else INVALID_ARGUMENT.
// Equal bytes for equal input with one version of libjpeg-turbo.
absl::StatusOr<std::string> EncodeJpeg(const Image& image, int quality,
                                       JpegSubsampling subsampling = JpegSubsampling::k420);

// 8-bit RGB PNG, lossless. INVALID_ARGUMENT for an image with no pixels.
absl::StatusOr<std::string> EncodePng(const Image& image);

}  // namespace vlm::data

#endif  // VLM_DATA_IMAGE_IMAGE_H_
