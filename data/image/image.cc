#include "data/image/image.h"

#include "absl/strings/str_cat.h"
#include "data/image/codecs.h"

namespace vlm::data {
namespace {

enum class Signature { kJpeg, kPng, kUnknown };

Signature SignatureOf(std::span<const std::byte> bytes) {
  static constexpr uint8_t kPng[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
  const auto starts_with = [&](std::span<const uint8_t> magic) {
    if (bytes.size() < magic.size()) return false;
    for (size_t i = 0; i < magic.size(); ++i) {
      if (static_cast<uint8_t>(bytes[i]) != magic[i]) return false;
    }
    return true;
  };
  static constexpr uint8_t kJpeg[] = {0xFF, 0xD8, 0xFF};
  if (starts_with(kPng)) return Signature::kPng;
  if (starts_with(kJpeg)) return Signature::kJpeg;
  return Signature::kUnknown;
}

absl::Status CheckLimits(const ImageHeader& header, const DecodeLimits& limits) {
  // Sides are below 2^31, so the product of two fits 64 bits.
  const uint64_t pixels = static_cast<uint64_t>(header.width) * static_cast<uint64_t>(header.height);
  if (pixels > limits.pixels_max) {
    return absl::ResourceExhaustedError(absl::StrCat("picture has more pixels than allowed; shrink it: ", header.width,
                                                     " x ", header.height, ", limit ", limits.pixels_max, " pixels"));
  }
  return absl::OkStatus();
}

absl::Status CheckBytes(std::span<const std::byte> bytes, const DecodeLimits& limits) {
  if (bytes.size() <= limits.bytes_max) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("picture file is larger than allowed; shrink it: ", bytes.size(),
                                                   " bytes, limit ", limits.bytes_max));
}

}  // namespace

std::string_view ExtensionOf(ImageFormat format) { return format == ImageFormat::kJpeg ? "jpg" : "png"; }

absl::StatusOr<ImageHeader> ReadImageHeader(std::span<const std::byte> bytes) {
  switch (SignatureOf(bytes)) {
    case Signature::kJpeg:
      return ReadJpegHeader(bytes);
    case Signature::kPng:
      return ReadPngHeader(bytes);
    case Signature::kUnknown:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "picture is neither JPEG nor PNG (first bytes do not match); convert it to one of them: ", bytes.size(),
      " bytes"));
}

absl::StatusOr<Image> DecodeImage(std::span<const std::byte> bytes, const DecodeLimits& limits, OrientationRule rule) {
  VLM_RETURN_IF_ERROR(CheckBytes(bytes, limits));
  VLM_ASSIGN_OR_RETURN(const ImageHeader header, ReadImageHeader(bytes));
  VLM_RETURN_IF_ERROR(CheckLimits(header, limits));
  VLM_ASSIGN_OR_RETURN(Image image,
                       header.format == ImageFormat::kJpeg ? DecodeJpeg(bytes, header) : DecodePng(bytes, header));
  if (rule == OrientationRule::kFollowExif) {
    image = ApplyExifOrientation(std::move(image), header.exif_orientation);
  }
  return image;
}

}  // namespace vlm::data
