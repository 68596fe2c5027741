#include <turbojpeg.h>

#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "data/image/codecs.h"

namespace vlm::data {
namespace {

constexpr int kSideMax = 65'500;  // libjpeg's JPEG_MAX_DIMENSION

struct CloseHandle {
  void operator()(void* handle) const { tjDestroy(handle); }
};
using Handle = std::unique_ptr<void, CloseHandle>;

constexpr uint8_t kStartOfScan = 0xDA, kEndOfImage = 0xD9, kApp1 = 0xE1;

bool IsStartOfFrame(uint8_t marker) {
  return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

// What lies before the first scan.
struct Segments {
  std::optional<uint8_t> frame_marker;
  int precision = 8;
  int width = 0;
  int height = 0;
  int exif_orientation = 1;
  size_t scan_offset = 0;  // 0: no scan begins in the file
};

void ReadSegment(uint8_t marker, std::span<const std::byte> body, Segments* segments) {
  static constexpr std::string_view kExif("Exif\0\0", 6);
  if (IsStartOfFrame(marker) && !segments->frame_marker.has_value() && body.size() >= 6) {
    segments->frame_marker = marker;
    segments->precision = static_cast<int>(body[0]);
    segments->height = static_cast<int>(body[1]) << 8 | static_cast<int>(body[2]);
    segments->width = static_cast<int>(body[3]) << 8 | static_cast<int>(body[4]);
  } else if (marker == kApp1 && body.size() >= kExif.size() &&
             std::memcmp(body.data(), kExif.data(), kExif.size()) == 0) {
    segments->exif_orientation = OrientationOfExif(body.subspan(kExif.size()));
  }
}

// Walks the markers (ITU-T T.81, B.1.1) up to the first scan.
Segments WalkSegments(std::span<const std::byte> bytes) {
  Segments segments;
  size_t at = 2;
  while (at + 4 <= bytes.size()) {
    if (bytes[at] != std::byte{0xFF}) {  // stray bytes between segments are skipped, as libjpeg does
      ++at;
      continue;
    }
    const auto marker = static_cast<uint8_t>(bytes[at + 1]);
    if (marker == 0xFF) {  // fill byte
      ++at;
      continue;
    }
    if (marker == 0x00 || marker == 0x01 || (marker >= 0xD0 && marker <= kEndOfImage)) {  // no length
      if (marker == kEndOfImage) break;
      at += 2;
      continue;
    }
    const size_t length = static_cast<size_t>(bytes[at + 2]) << 8 | static_cast<size_t>(bytes[at + 3]);
    if (length < 2 || at + 2 + length > bytes.size()) break;
    if (marker == kStartOfScan) {
      segments.scan_offset = at;
      break;
    }
    ReadSegment(marker, bytes.subspan(at + 4, length - 2), &segments);
    at += 2 + length;
  }
  return segments;
}

bool HasEndOfImage(std::span<const std::byte> bytes, size_t from) {
  for (size_t at = from; at + 1 < bytes.size(); ++at) {
    if (bytes[at] == std::byte{0xFF} && bytes[at + 1] == std::byte{kEndOfImage}) return true;
  }
  return false;
}

absl::Status CheckKind(const Segments& segments) {
  const uint8_t marker = *segments.frame_marker;
  if (marker > 0xC2 || segments.precision != 8) {
    return absl::UnimplementedError(absl::StrCat(
        "JPEG of a kind that is not read (only 8-bit Huffman baseline, extended and progressive); convert it: "
        "frame type SOF",
        marker - 0xC0, ", ", segments.precision, " bits"));
  }
  return absl::OkStatus();
}

// Adobe's convention stores CMYK inverted, and Pillow assumes it for every file. After that inversion Pillow's
// cmyk2rgb (src/libImaging/Convert.c) is R = clip(nk - C * nk / 255) with nk = 255 - K, the division rounded as
// its MULDIV255.
void CmykToRgb(std::span<const uint8_t> stored, std::span<uint8_t> rgb) {
  const size_t pixels = rgb.size() / 3;
  for (size_t pixel = 0; pixel < pixels; ++pixel) {
    const int not_black = stored[4 * pixel + 3];  // 255 - K, K = 255 - stored
    for (size_t c = 0; c < 3; ++c) {
      const int product = (255 - stored[4 * pixel + c]) * not_black + 128;
      const int scaled = ((product >> 8) + product) >> 8;
      rgb[3 * pixel + c] = static_cast<uint8_t>(std::max(not_black - scaled, 0));
    }
  }
}

// libjpeg fills what a short file lacks with gray and only warns; Pillow refuses. Other warnings (stray bytes,
// a bad entropy code) are accepted by both.
bool IsTruncated(std::string_view warning, std::span<const std::byte> bytes, size_t scan_offset) {
  return absl::StrContains(absl::string_view(warning.data(), warning.size()), "Premature end of JPEG file") ||
         !HasEndOfImage(bytes, scan_offset);
}

}  // namespace

absl::StatusOr<ImageHeader> ReadJpegHeader(std::span<const std::byte> bytes) {
  const Segments segments = WalkSegments(bytes);
  if (!segments.frame_marker.has_value() || segments.scan_offset == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("JPEG header is cut short or broken; replace the file: ", bytes.size(), " bytes"));
  }
  VLM_RETURN_IF_ERROR(CheckKind(segments));
  if (segments.width == 0 || segments.height == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "JPEG has no pixels or leaves its height to a later marker: ", segments.width, " x ", segments.height));
  }
  return ImageHeader{ImageFormat::kJpeg, segments.width, segments.height, segments.exif_orientation};
}

absl::StatusOr<Image> DecodeJpeg(std::span<const std::byte> bytes, const ImageHeader& header) {
  const Handle handle(tjInitDecompress());
  if (handle == nullptr) return absl::ResourceExhaustedError("libjpeg-turbo could not allocate its state");
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  int width = 0, height = 0, subsampling = 0, color_space = 0;
  if (tjDecompressHeader3(handle.get(), data, bytes.size(), &width, &height, &subsampling, &color_space) != 0 &&
      tjGetErrorCode(handle.get()) != TJERR_WARNING) {
    return absl::InvalidArgumentError(absl::StrCat("JPEG is broken; replace the file: ", tjGetErrorStr2(handle.get())));
  }
  if (width != header.width || height != header.height) {
    return absl::InvalidArgumentError(absl::StrCat("JPEG has two frame headers of different sizes: ", header.width,
                                                   " x ", header.height, " and ", width, " x ", height));
  }
  const bool cmyk = color_space == TJCS_CMYK || color_space == TJCS_YCCK;
  const size_t pixels = static_cast<size_t>(width) * static_cast<size_t>(height);
  std::vector<uint8_t> stored(pixels * (cmyk ? 4 : 3));
  // TJFLAG_LIMITSCANS: a progressive file with thousands of scans would cost seconds a picture.
  const int result = tjDecompress2(handle.get(), data, bytes.size(), stored.data(), width, 0, height,
                                   cmyk ? TJPF_CMYK : TJPF_RGB, TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS);
  if (result != 0) {
    const std::string message = tjGetErrorStr2(handle.get());
    if (tjGetErrorCode(handle.get()) != TJERR_WARNING) {
      return absl::InvalidArgumentError(absl::StrCat("JPEG is broken; replace the file: ", message));
    }
    if (IsTruncated(message, bytes, WalkSegments(bytes).scan_offset)) {
      return absl::InvalidArgumentError(
          absl::StrCat("JPEG is truncated; replace the file: ", bytes.size(), " bytes, ", message));
    }
  }
  if (!cmyk) return Image{width, height, std::move(stored)};
  Image image{width, height, std::vector<uint8_t>(pixels * 3)};
  CmykToRgb(stored, image.rgb);
  return image;
}

absl::StatusOr<std::string> EncodeJpeg(const Image& image, int quality, JpegSubsampling subsampling) {
  if (image.width < 1 || image.height < 1 || image.width > kSideMax || image.height > kSideMax || quality < 1 ||
      quality > 100 ||
      image.rgb.size() != size_t{3} * static_cast<size_t>(image.width) * static_cast<size_t>(image.height)) {
    return absl::InvalidArgumentError(absl::StrCat("JPEG needs sides of 1 to ", kSideMax,
                                                   " and a quality of 1 to 100: ", image.width, " x ", image.height,
                                                   ", quality ", quality));
  }
  const Handle handle(tjInitCompress());
  if (handle == nullptr) return absl::ResourceExhaustedError("libjpeg-turbo could not allocate its state");
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  const int result =
      tjCompress2(handle.get(), image.rgb.data(), image.width, 0, image.height, TJPF_RGB, &buffer, &size,
                  subsampling == JpegSubsampling::k444 ? TJSAMP_444 : TJSAMP_420, quality, TJFLAG_ACCURATEDCT);
  const std::unique_ptr<unsigned char, decltype(&tjFree)> owned(buffer, &tjFree);
  if (result != 0) {
    return absl::InternalError(absl::StrCat("JPEG could not be written: ", tjGetErrorStr2(handle.get())));
  }
  return std::string(reinterpret_cast<const char*>(buffer), size);
}

}  // namespace vlm::data
