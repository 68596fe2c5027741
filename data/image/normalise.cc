#include "data/image/normalise.h"

#include "absl/strings/str_cat.h"

namespace vlm::data {
namespace {

// A pixel has 256 values, so the formula is evaluated once for each and the rest is a look-up.
using ChannelTable = std::array<float, 256>;

ChannelTable TableOf(const Normalisation& normalisation, size_t channel) {
  ChannelTable table;
  for (int value = 0; value < 256; ++value) {
    const auto rescaled = static_cast<float>(static_cast<double>(value) * normalisation.rescale);
    table[static_cast<size_t>(value)] = (rescaled - normalisation.mean[channel]) / normalisation.std[channel];
  }
  return table;
}

absl::Status CheckArguments(const Image& image, const Normalisation& normalisation, size_t out_size) {
  for (const float std : normalisation.std) {
    if (!(std > 0)) {
      return absl::InvalidArgumentError(absl::StrCat("image_std must be positive; correct the processor: ", std));
    }
  }
  if (image.rgb.empty() || out_size != image.rgb.size()) {
    return absl::InvalidArgumentError(absl::StrCat("normalise needs a picture and room for 3 floats a pixel: ",
                                                   image.width, " x ", image.height, ", floats ", out_size));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status NormaliseInto(const Image& image, const Normalisation& normalisation, std::span<float> out) {
  VLM_RETURN_IF_ERROR(CheckArguments(image, normalisation, out.size()));
  const size_t pixels = image.rgb.size() / 3;
  for (size_t channel = 0; channel < 3; ++channel) {
    const ChannelTable table = TableOf(normalisation, channel);
    const uint8_t* in = image.rgb.data() + channel;
    float* plane = out.data() + channel * pixels;
    for (size_t pixel = 0; pixel < pixels; ++pixel) plane[pixel] = table[in[3 * pixel]];
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Normalise(const Image& image, const Normalisation& normalisation) {
  std::vector<float> out(image.rgb.size());
  VLM_RETURN_IF_ERROR(NormaliseInto(image, normalisation, out));
  return out;
}

}  // namespace vlm::data
