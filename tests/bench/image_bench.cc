// Decodes, resizes and normalises one JPEG many times and prints seconds per picture for each step, for
// image_bench.py, which measures Pillow in turn with this program.
//
// Usage: image_bench FILE.jpg WIDTH HEIGHT ROUNDS, one line of JSON per round after a first one that is not counted.
#include <charconv>
#include <cstdio>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file_system.h"
#include "data/image/image.h"
#include "data/image/normalise.h"
#include "data/image/resample.h"

namespace {

using vlm::data::Image;

constexpr uint64_t kFileBytesMax = uint64_t{64} << 20;

int ToInt(const char* text) {
  int value = 0;
  const std::string digits(text);
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

double SecondsSince(absl::Duration start) { return absl::ToDoubleSeconds(vlm::RealClock()->Monotonic() - start); }

// `print` is false for the first round, which pays for cold caches and fresh pages.
absl::Status Round(const std::string& file, int width, int height, bool print) {
  const auto bytes = std::as_bytes(std::span(file.data(), file.size()));
  absl::Duration start = vlm::RealClock()->Monotonic();
  VLM_ASSIGN_OR_RETURN(const Image image, vlm::data::DecodeImage(bytes, vlm::data::DecodeLimits{}));
  const double decode = SecondsSince(start);
  start = vlm::RealClock()->Monotonic();
  VLM_ASSIGN_OR_RETURN(const Image small, vlm::data::Resize(image, width, height, vlm::data::ResampleFilter::kBicubic));
  const double resize = SecondsSince(start);
  start = vlm::RealClock()->Monotonic();
  VLM_ASSIGN_OR_RETURN(const std::vector<float> pixels, vlm::data::Normalise(small, vlm::data::Normalisation{}));
  const double normalise = SecondsSince(start);
  if (!print) return absl::OkStatus();
  std::printf("{\"decode\": %.9f, \"resize\": %.9f, \"normalise\": %.9f, \"first\": %.6f}\n", decode, resize, normalise,
              static_cast<double>(pixels[0]));
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: image_bench FILE.jpg WIDTH HEIGHT ROUNDS\n");
    return 2;
  }
  const auto file = vlm::ReadFile(vlm::PosixFileSystem(), argv[1], kFileBytesMax);
  if (!file.ok()) {
    std::fprintf(stderr, "%s\n", file.status().ToString().c_str());
    return 1;
  }
  for (int round = 0; round <= ToInt(argv[4]); ++round) {
    if (const absl::Status status = Round(*file, ToInt(argv[2]), ToInt(argv[3]), round > 0); !status.ok()) {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      return 1;
    }
  }
  return 0;
}
