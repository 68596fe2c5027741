// The JPEG path: header, decoding, EXIF, resizing to the model's floats.
#include <string>
#include <vector>

#include "base/check.h"
#include "data/image/image.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/picture_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string encoded(reinterpret_cast<const char*>(data), size);
  vlm::fuzz::CheckPicture(encoded);
  // Behind the marks of a JPEG, so that no change is spent on them.
  if (size >= 2) {
    encoded.replace(0, 2, "\xff\xd8");
    vlm::fuzz::CheckPicture(encoded);
  }
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  using vlm::data::EncodeJpeg;
  using vlm::data::Image;
  using vlm::data::JpegSubsampling;
  std::vector<std::string> seeds;
  for (const auto& [width, height] : {std::pair{1, 1}, {17, 9}, {40, 33}}) {
    Image image{width, height, {}};
    for (int i = 0; i < 3 * width * height; ++i) image.rgb.push_back(static_cast<uint8_t>(i * 37));
    for (const JpegSubsampling subsampling : {JpegSubsampling::k420, JpegSubsampling::k444}) {
      absl::StatusOr<std::string> encoded = EncodeJpeg(image, 60, subsampling);
      VLM_CHECK(encoded.ok(), encoded.status().ToString());
      // With an EXIF segment that says "orientation 6", little-endian.
      const std::string tiff("II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", 26);
      const std::string exif = std::string("\xff\xe1\0\x22", 4) + std::string("Exif\0\0", 6) + tiff;
      seeds.push_back(encoded->substr(0, 2) + exif + encoded->substr(2));
      seeds.push_back(*std::move(encoded));
    }
  }
  seeds.emplace_back("\xff\xd8\xff");
  return seeds;
}
