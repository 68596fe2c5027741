#include <utility>

#include "data/image/codecs.h"

namespace vlm::data {
namespace {

// Reads integers of either byte order from a TIFF structure; out of range reads give 0 and clear ok().
class TiffReader {
 public:
  explicit TiffReader(std::span<const std::byte> bytes) : bytes_(bytes) {
    big_endian_ = bytes.size() >= 2 && bytes[0] == std::byte{'M'} && bytes[1] == std::byte{'M'};
    ok_ = bytes.size() >= 8 && (big_endian_ || (bytes[0] == std::byte{'I'} && bytes[1] == std::byte{'I'})) &&
          U16(2) == 42;
  }
  uint32_t U16(size_t offset) { return Read(offset, 2); }
  uint32_t U32(size_t offset) { return Read(offset, 4); }
  bool ok() const { return ok_; }

 private:
  uint32_t Read(size_t offset, size_t count) {
    if (offset > bytes_.size() || bytes_.size() - offset < count) {
      ok_ = false;
      return 0;
    }
    uint32_t value = 0;
    for (size_t i = 0; i < count; ++i) {
      const size_t at = big_endian_ ? offset + i : offset + count - 1 - i;
      value = value << 8 | static_cast<uint32_t>(bytes_[at]);
    }
    return value;
  }

  std::span<const std::byte> bytes_;
  bool big_endian_ = false;
  bool ok_ = true;
};

constexpr uint32_t kOrientationTag = 0x0112;
constexpr uint32_t kTypeShort = 3;
constexpr size_t kEntryBytes = 12;

}  // namespace

int OrientationOfExif(std::span<const std::byte> tiff) {
  TiffReader reader(tiff);
  if (!reader.ok()) return 1;
  const size_t directory = reader.U32(4);
  const uint32_t entries = reader.U16(directory);
  for (uint32_t entry = 0; entry < entries && reader.ok(); ++entry) {
    const size_t at = directory + 2 + entry * kEntryBytes;
    if (reader.U16(at) != kOrientationTag) continue;
    if (reader.U16(at + 2) != kTypeShort || reader.U32(at + 4) != 1) return 1;
    const uint32_t orientation = reader.U16(at + 8);
    return reader.ok() && orientation >= 1 && orientation <= 8 ? static_cast<int>(orientation) : 1;
  }
  return 1;
}

Image ApplyExifOrientation(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const bool transpose = orientation >= 5;  // rows become columns
  // Where the upright picture's x and y axes run backwards in the stored one (EXIF 2.32, table 6).
  const bool flip_stored_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flip_stored_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image upright;
  upright.width = transpose ? image.height : image.width;
  upright.height = transpose ? image.width : image.height;
  upright.rgb.resize(image.rgb.size());
  size_t out = 0;
  for (int y = 0; y < upright.height; ++y) {
    for (int x = 0; x < upright.width; ++x, out += 3) {
      int stored_x = transpose ? y : x;
      int stored_y = transpose ? x : y;
      if (flip_stored_x) stored_x = image.width - 1 - stored_x;
      if (flip_stored_y) stored_y = image.height - 1 - stored_y;
      const size_t in =
          3 * (static_cast<size_t>(stored_y) * static_cast<size_t>(image.width) + static_cast<size_t>(stored_x));
      for (size_t c = 0; c < 3; ++c) upright.rgb[out + c] = image.rgb[in + c];
    }
  }
  return upright;
}

}  // namespace vlm::data
