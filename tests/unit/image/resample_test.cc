// Resizing and normalising against a live Pillow and transformers.
#include "data/image/resample.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "base/random.h"
#include "data/image/normalise.h"
#include "tests/unit/image/oracle.h"

namespace vlm::data {
namespace {

TEST(ResizeTest, EqualsPillowByteForByte) {
  const std::string folder = EmptyFolder("resize");
  ASSERT_TRUE(RunOracle("pillow_oracle.py", "resize", folder));
  const nlohmann::json cases = Cases(folder);
  ASSERT_GT(cases.size(), 80);
  for (const auto& row : cases) {
    const std::string stem = folder + "/" + std::to_string(row["number"].get<int>());
    const Image image = RawImage(stem + ".rgb", row["width"], row["height"]);
    const int width = row["out_width"], height = row["out_height"];
    for (const auto& [name, filter] :
         {std::pair{"bicubic", ResampleFilter::kBicubic}, std::pair{"bilinear", ResampleFilter::kBilinear}}) {
      const Image want = RawImage(stem + "_" + name + ".rgb", width, height);
      for (const ResampleKernel kernel : {ResampleKernel::kPortable, ResampleKernel::kFastest}) {
        const auto resized = Resize(image, width, height, filter, kernel);
        ASSERT_TRUE(resized.ok()) << resized.status();
        EXPECT_TRUE(*resized == want) << row << " " << name << " kernel " << static_cast<int>(kernel);
      }
    }
  }
}

// More sizes than the oracle's files allow: both kernels must agree.
TEST(ResizeTest, KernelsAgreeOnRandomSizes) {
  Rng rng(RngKey{1});
  for (int round = 0; round < 400; ++round) {
    const auto side = [&](uint64_t most) { return 1 + static_cast<int>(rng.Below(most)); };
    Image image{side(90), side(40), {}};
    for (int i = 0; i < 3 * image.width * image.height; ++i) {
      image.rgb.push_back(static_cast<uint8_t>(rng.Below(2) == 0 ? rng.Below(256) : 255 * rng.Below(2)));
    }
    const int width = side(60), height = side(60);
    const auto filter = rng.Below(2) == 0 ? ResampleFilter::kBicubic : ResampleFilter::kBilinear;
    EXPECT_TRUE(*Resize(image, width, height, filter, ResampleKernel::kFastest) ==
                *Resize(image, width, height, filter, ResampleKernel::kPortable))
        << image.width << " x " << image.height << " to " << width << " x " << height;
  }
}

TEST(ResizeTest, RefusesSizesThatCannotBe) {
  const Image image{2, 2, std::vector<uint8_t>(12)};
  for (const auto& [width, height] : {std::pair{0, 1}, std::pair{1, -1}, std::pair{kResizeSideMax + 1, 1}}) {
    EXPECT_EQ(Resize(image, width, height, ResampleFilter::kBicubic).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(Resize(Image{}, 4, 4, ResampleFilter::kBicubic).status().code(), absl::StatusCode::kInvalidArgument);
  for (const Image& broken : {Image{2, 0, {}}, Image{2, 2, std::vector<uint8_t>(11)}}) {
    EXPECT_EQ(Resize(broken, 4, 4, ResampleFilter::kBicubic).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(Resize(image, 1, kResizeSideMax + 1, ResampleFilter::kBicubic).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Resize(image, 60'000, 60'000, ResampleFilter::kBicubic).status().code(),
            absl::StatusCode::kResourceExhausted);
}

std::vector<float> Floats(const std::string& path) {
  const std::string raw = Contents(path);
  std::vector<float> values(raw.size() / sizeof(float));
  std::memcpy(values.data(), raw.data(), raw.size());
  return values;
}

// The processors' whole path: resize, crop, rescale, normalise; equal to the bit.
TEST(NormaliseTest, EqualsTransformersProcessors) {
  const std::string folder = EmptyFolder("processors");
  ASSERT_TRUE(RunOracle("pillow_oracle.py", "processors", folder));
  const nlohmann::json cases = Cases(folder);
  ASSERT_EQ(cases.size(), 5);
  for (const auto& row : cases) {
    const std::string stem = folder + "/" + std::to_string(row["number"].get<int>());
    const Image image = RawImage(stem + ".rgb", row["width"], row["height"]);
    const auto clip = [&](int shortest_edge, int width, int height) {
      Normalisation normalisation;
      for (size_t c = 0; c < 3; ++c) {
        normalisation.mean[c] = row["mean"][c].get<float>();
        normalisation.std[c] = row["std"][c].get<float>();
      }
      const ImageSize size = ShortestEdgeSize(image.width, image.height, shortest_edge);
      const Image resized = *Resize(image, size.width, size.height, ResampleFilter::kBicubic);
      return *Normalise(CenterCrop(resized, width, height), normalisation);
    };
    EXPECT_TRUE(clip(36, 36, 36) == Floats(stem + "_clip.f32")) << row;
    EXPECT_TRUE(clip(20, 26, 37) == Floats(stem + "_odd_clip.f32")) << row;
    const Image square = *Resize(image, 24, 24, ResampleFilter::kBicubic);
    EXPECT_TRUE(*Normalise(square, Normalisation{}) == Floats(stem + "_siglip.f32")) << row;
  }
}

TEST(NormaliseTest, RefusesZeroDeviationAndWrongRoom) {
  const Image image{2, 1, std::vector<uint8_t>(6)};
  Normalisation flat;
  flat.std[1] = 0;
  EXPECT_EQ(Normalise(image, flat).status().code(), absl::StatusCode::kInvalidArgument);
  std::vector<float> small(5);
  EXPECT_EQ(NormaliseInto(image, Normalisation{}, small).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(NormaliseInto(Image{}, Normalisation{}, {}).code(), absl::StatusCode::kInvalidArgument);
}

TEST(PadTest, PutsThePictureInTheMiddleOfASquare) {
  const Image wide{3, 1, {1, 2, 3, 4, 5, 6, 7, 8, 9}};
  const Image square = PadToSquare(wide, {9, 8, 7});
  EXPECT_EQ(square.width, 3);
  EXPECT_EQ(square.height, 3);
  EXPECT_EQ(square.rgb, (std::vector<uint8_t>{9, 8, 7, 9, 8, 7, 9, 8, 7,  //
                                              1, 2, 3, 4, 5, 6, 7, 8, 9,  //
                                              9, 8, 7, 9, 8, 7, 9, 8, 7}));
}

}  // namespace
}  // namespace vlm::data
