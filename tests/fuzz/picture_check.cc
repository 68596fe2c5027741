#include "tests/fuzz/picture_check.h"

#include <cmath>
#include <span>
#include <vector>

#include "base/check.h"
#include "data/image/image.h"
#include "data/loader.h"

namespace vlm::fuzz {

void CheckPicture(const std::string& encoded) {
  const auto bytes = std::as_bytes(std::span(encoded.data(), encoded.size()));
  const data::DecodeLimits limits{.pixels_max = 1 << 20, .bytes_max = 1 << 20};
  const absl::StatusOr<data::ImageHeader> header = data::ReadImageHeader(bytes);
  const absl::StatusOr<data::Image> stored = data::DecodeImage(bytes, limits);
  const absl::StatusOr<data::Image> upright = data::DecodeImage(bytes, limits, data::OrientationRule::kFollowExif);
  const data::PixelOptions options{.size = 8, .normalisation = {}, .limits = limits};
  std::vector<float> pixels = {1};
  const absl::Status appended = data::AppendPixels(encoded, options, &pixels);
  if (!stored.ok()) {
    VLM_CHECK(!stored.status().message().empty(), "refused without a reason");
    VLM_CHECK(!upright.ok() && !appended.ok(), "a picture is refused one way and taken the other");
    return;
  }
  VLM_CHECK(header.ok(), "pixels without a header");
  VLM_CHECK(stored->width == header->width && stored->height == header->height, "another size than the header's");
  VLM_CHECK(stored->rgb.size() == size_t{3} * stored->width * stored->height, "pixels are missing");
  VLM_CHECK(upright.ok() && upright->rgb.size() == stored->rgb.size(), "turning changed the number of pixels");
  VLM_CHECK(appended.ok(), appended.ToString());
  VLM_CHECK(pixels.size() == 1 + 3 * 8 * 8, "another number of floats than the model reads");
  for (const float value : pixels) VLM_CHECK(std::abs(value) <= 1, "a float outside the normalisation");
}

}  // namespace vlm::fuzz
