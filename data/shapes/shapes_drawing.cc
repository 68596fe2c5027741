#include "data/shapes/shapes_drawing.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

namespace vlm::data {
namespace {

using Rgb = std::array<int, 3>;

constexpr std::array<Rgb, kShapeColors.size()> kPaint = {{
    {215, 40, 45},   // red
    {45, 165, 65},   // green
    {45, 85, 215},   // blue
    {240, 215, 50},  // yellow
    {145, 55, 185},  // purple
    {245, 135, 30},  // orange
}};

// Lengths are in 1/1024 pixel, shares of a side in 1/1000, cosines in 1/16384.
constexpr int64_t kUnit = 1024;
constexpr int64_t kCosineBits = 14;
constexpr int kSubsamples = 4;  // per pixel and axis

struct Object {
  int shape = 0;
  Rgb paint{};
  int64_t x = 0, y = 0, radius = 0;  // units
  int64_t cosine = int64_t{1} << kCosineBits, sine = 0;
};

// Uniform in [low, high].
int64_t Between(Rng* rng, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(rng->Below(static_cast<uint64_t>(high - low + 1)));
}

// The centre of a large object by place: left, right, top, bottom, center (order of kShapePlaces).
constexpr int64_t kNear = 300, kMiddle = 500, kFar = 700;
constexpr std::array<std::array<int64_t, 2>, kShapePlaces.size()> kPlaceCenters = {
    {{kNear, kMiddle}, {kFar, kMiddle}, {kMiddle, kNear}, {kMiddle, kFar}, {kMiddle, kMiddle}}};

// Small objects stand in different quarters, so that they never touch.
constexpr std::array<std::array<int64_t, 2>, 4> kQuarterCenters = {{{270, 270}, {730, 270}, {270, 730}, {730, 730}}};

struct Placement {
  std::array<int64_t, 2> center;            // shares of width and height
  int64_t jitter = 0;                       // of the centre, either way
  int64_t radius_low = 0, radius_high = 0;  // shares of the shorter side
};

Rgb PaintOf(int color, Rng* rng) {
  Rgb paint = kPaint[static_cast<size_t>(color)];
  for (int& channel : paint) channel = std::clamp(channel + static_cast<int>(Between(rng, -12, 12)), 0, 255);
  return paint;
}

Object ObjectAt(const Placement& placement, const ShapesScene& scene, const Image& canvas, Rng* rng) {
  Object object;
  object.shape = scene.shape;
  object.paint = PaintOf(scene.color, rng);
  const int64_t shorter = std::min(canvas.width, canvas.height);
  const int64_t share_x = placement.center[0] + Between(rng, -placement.jitter, placement.jitter);
  const int64_t share_y = placement.center[1] + Between(rng, -placement.jitter, placement.jitter);
  object.x = share_x * canvas.width * kUnit / 1000;
  object.y = share_y * canvas.height * kUnit / 1000;
  object.radius = Between(rng, placement.radius_low, placement.radius_high) * shorter * kUnit / 1000;
  // A turn of up to 7 degrees from t = tan(angle / 2): cos = (1 - t^2) / (1 + t^2), sin = 2 t / (1 + t^2).
  const int64_t t = Between(rng, -61, 61), one = 1000;
  const int64_t denominator = one * one + t * t;
  object.cosine = ((one * one - t * t) << kCosineBits) / denominator;
  object.sine = ((2 * one * t) * (int64_t{1} << kCosineBits)) / denominator;
  return object;
}

std::vector<Object> ObjectsOf(const ShapesScene& scene, const Image& canvas, Rng* rng) {
  std::vector<Object> objects;
  if (scene.large) {
    const Placement placement{kPlaceCenters[static_cast<size_t>(scene.place)], 25, 270, 320};
    objects.push_back(ObjectAt(placement, scene, canvas, rng));
    return objects;
  }
  auto quarters = kQuarterCenters;
  for (size_t i = quarters.size() - 1; i > 0; --i) std::swap(quarters[i], quarters[rng->Below(i + 1)]);
  for (int i = 0; i < scene.count; ++i) {
    const Placement placement{quarters[static_cast<size_t>(i)], 30, 140, 175};
    objects.push_back(ObjectAt(placement, scene, canvas, rng));
  }
  return objects;
}

// Whether the point, relative to the centre and turned upright, is inside a shape of radius r.
bool Inside(int shape, int64_t u, int64_t v, int64_t r) {
  const int64_t across = std::abs(u), along = std::abs(v);
  switch (shape) {
    case 0:  // circle
      return u * u + v * v <= r * r;
    case 1:  // square: its sides cut deep into a circle of the same radius, so that the two differ in many pixels
      return 100 * std::max(across, along) <= 75 * r;
    case 2:  // triangle, apex up: from v = -1.05 r to 0.8 r, half as wide as high below the apex
      return 100 * v <= 80 * r && 185 * across <= 100 * v + 105 * r;
    default:  // cross
      return (100 * across <= 34 * r && along <= r) || (100 * along <= 34 * r && across <= r);
  }
}

// Subsamples of pixel (x, y) inside the object, 0 .. kSubsamples^2.
int CoverageOf(const Object& object, int x, int y) {
  constexpr int64_t kStep = kUnit / kSubsamples;
  int covered = 0;
  for (int sub_y = 0; sub_y < kSubsamples; ++sub_y) {
    for (int sub_x = 0; sub_x < kSubsamples; ++sub_x) {
      const int64_t dx = x * kUnit + sub_x * kStep + kStep / 2 - object.x;
      const int64_t dy = y * kUnit + sub_y * kStep + kStep / 2 - object.y;
      const int64_t u = (object.cosine * dx + object.sine * dy) >> kCosineBits;
      const int64_t v = (object.cosine * dy - object.sine * dx) >> kCosineBits;
      covered += Inside(object.shape, u, v, object.radius) ? 1 : 0;
    }
  }
  return covered;
}

// A gray, dark or light, with a slight tint and a slope of brightness.
void PaintBackground(Image* image, Rng* rng) {
  const int64_t gray = rng->Below(2) == 0 ? Between(rng, 30, 75) : Between(rng, 180, 225);
  std::array<int64_t, 3> base{};
  for (int64_t& channel : base) channel = gray + Between(rng, -8, 8);
  const int64_t slope_x = Between(rng, -15, 15), slope_y = Between(rng, -15, 15);
  size_t out = 0;
  for (int y = 0; y < image->height; ++y) {
    for (int x = 0; x < image->width; ++x) {
      const int64_t slope =
          slope_x * (2 * x - image->width) / image->width + slope_y * (2 * y - image->height) / image->height;
      for (const int64_t channel : base) {
        image->rgb[out++] = static_cast<uint8_t>(std::clamp<int64_t>(channel + slope, 0, 255));
      }
    }
  }
}

void PaintObject(const Object& object, Image* image) {
  // The farthest point of any shape is below 1.3 r (the triangle's lower corners).
  const int64_t reach = object.radius * 13 / 10 + kUnit;
  const auto pixel = [](int64_t position, int side) {
    return static_cast<int>(std::clamp<int64_t>(position / kUnit, 0, side - 1));
  };
  constexpr int kFull = kSubsamples * kSubsamples;
  for (int y = pixel(object.y - reach, image->height); y <= pixel(object.y + reach, image->height); ++y) {
    for (int x = pixel(object.x - reach, image->width); x <= pixel(object.x + reach, image->width); ++x) {
      const int covered = CoverageOf(object, x, y);
      if (covered == 0) continue;
      uint8_t* rgb =
          image->rgb.data() + 3 * (static_cast<size_t>(y) * static_cast<size_t>(image->width) + static_cast<size_t>(x));
      for (size_t c = 0; c < 3; ++c) {
        rgb[c] = static_cast<uint8_t>((rgb[c] * (kFull - covered) + object.paint[c] * covered + kFull / 2) / kFull);
      }
    }
  }
}

// Adds to every channel the sum of four uniform bytes (nearly normal, standard deviation 148), scaled to a
// standard deviation of 2 to 6.
void AddNoise(Image* image, RngKey key, Rng* rng) {
  const int64_t amplitude = Between(rng, 4, 10);
  uint64_t counter = 0;
  for (size_t at = 0; at < image->rgb.size();) {
    for (const uint32_t word : Philox(key, counter++)) {
      if (at == image->rgb.size()) break;
      const int64_t sum = (word & 0xFF) + (word >> 8 & 0xFF) + (word >> 16 & 0xFF) + (word >> 24);
      const int64_t noise = (sum - 510) * amplitude / 256;
      image->rgb[at] = static_cast<uint8_t>(std::clamp<int64_t>(image->rgb[at] + noise, 0, 255));
      ++at;
    }
  }
}

Image CanvasOf(const ShapesOptions& options, Rng* rng) {
  Image canvas;
  canvas.width = static_cast<int>(Between(rng, options.min_size, options.max_size));
  const int lowest = std::max(options.min_size, (canvas.width * 5 + 5) / 6);
  const int highest = std::min(options.max_size, canvas.width * 6 / 5);
  canvas.height = static_cast<int>(Between(rng, lowest, highest));
  canvas.rgb.resize(3 * static_cast<size_t>(canvas.width) * static_cast<size_t>(canvas.height));
  return canvas;
}

}  // namespace

Image DrawScene(const ShapesScene& scene, const ShapesOptions& options, RngKey key) {
  Rng rng(key.Derive("layout"));
  Image image = CanvasOf(options, &rng);
  const std::vector<Object> objects = ObjectsOf(scene, image, &rng);
  PaintBackground(&image, &rng);
  for (const Object& object : objects) PaintObject(object, &image);
  AddNoise(&image, key.Derive("noise"), &rng);
  return image;
}

Image DrawBlank(const ShapesOptions& options, RngKey key) {
  Rng rng(key.Derive("layout"));
  Image image = CanvasOf(options, &rng);
  std::fill(image.rgb.begin(), image.rgb.end(), kBlankGrey);
  return image;
}

}  // namespace vlm::data
