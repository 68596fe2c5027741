#include "data/image/resample.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "data/image/resample_kernels.h"

namespace vlm::data {
namespace {

double Triangle(double x) {
  x = std::abs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

// Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -1/2.
double Cubic(double x) {
  constexpr double kA = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((kA + 2.0) * x - (kA + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * kA;
  return 0.0;
}

struct Kernel {
  double (*value)(double);
  double radius;
};

Kernel KernelOf(ResampleFilter filter) {
  return filter == ResampleFilter::kBilinear ? Kernel{Triangle, 1.0} : Kernel{Cubic, 2.0};
}

int32_t ToFixed(double weight) {
  constexpr double kOne = 1 << kWeightBits;
  return static_cast<int32_t>(weight < 0 ? -0.5 + weight * kOne : 0.5 + weight * kOne);
}

// Pillow's precompute_coeffs and normalize_coeffs_8bpc, operation by operation: the order of the double
// operations decides the last bit of a weight.
ResampleWeights WeightsOf(int inputs, int outputs, const Kernel& kernel) {
  const double scale = static_cast<double>(inputs) / outputs;
  const double filter_scale = std::max(scale, 1.0);
  const double radius = kernel.radius * filter_scale;
  const double inverse = 1.0 / filter_scale;
  ResampleWeights weights;
  weights.outputs = static_cast<size_t>(outputs);
  weights.taps_max = static_cast<size_t>(std::ceil(radius)) * 2 + 1;
  weights.first.resize(weights.outputs);
  weights.count.resize(weights.outputs);
  weights.weights.assign(weights.outputs * weights.taps_max, 0);
  std::vector<double> row(weights.taps_max);
  for (size_t i = 0; i < weights.outputs; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - radius + 0.5), 0);
    const int count = std::min(static_cast<int>(center + radius + 0.5), inputs) - first;
    double total = 0.0;
    for (int t = 0; t < count; ++t) {
      row[static_cast<size_t>(t)] = kernel.value((t + first - center + 0.5) * inverse);
      total += row[static_cast<size_t>(t)];
    }
    for (int t = 0; t < count; ++t) {
      const double weight = total != 0.0 ? row[static_cast<size_t>(t)] / total : row[static_cast<size_t>(t)];
      weights.weights[i * weights.taps_max + static_cast<size_t>(t)] = ToFixed(weight);
    }
    weights.first[i] = first;
    weights.count[i] = count;
  }
  return weights;
}

ByteRows RowsOf(const Image& image) {
  return {image.rgb, static_cast<size_t>(image.height), 3 * static_cast<size_t>(image.width)};
}

Image Blank(int width, int height) {
  return {width, height, std::vector<uint8_t>(3 * static_cast<size_t>(width) * static_cast<size_t>(height))};
}

Image ResizeWidth(const Image& image, int width, const Kernel& kernel, bool fast) {
  Image out = Blank(width, image.height);
  const ResampleWeights weights = WeightsOf(image.width, width, kernel);
  (fast ? ResampleRowsAvx2 : ResampleRowsPortable)(RowsOf(image), weights, out.rgb);
  return out;
}

Image ResizeHeight(const Image& image, int height, const Kernel& kernel, bool fast) {
  Image out = Blank(image.width, height);
  const ResampleWeights weights = WeightsOf(image.height, height, kernel);
  (fast ? ResampleColumnsAvx2 : ResampleColumnsPortable)(RowsOf(image), weights, out.rgb);
  return out;
}

// Pillow 13 runs the pass down the columns first when it removes more than twice as many rows as the other pass
// removes columns. The order shows in the last bit, because each pass rounds.
bool ColumnsFirst(const Image& image, int width, int height) {
  return height < image.height && image.height - height > 2 * (image.width - width);
}

bool HasPixels(const Image& image) {
  return image.width > 0 && image.height > 0 &&
         image.rgb.size() == 3 * static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
}

// Copies a rectangle between pictures of the same size of rectangle; the caller keeps it inside both.
struct Rectangle {
  int from_x, from_y, to_x, to_y, width, height;
};
void CopyRectangle(const Image& from, const Rectangle& part, Image* to) {
  for (int y = 0; y < part.height; ++y) {
    const auto in =
        3 * (static_cast<size_t>(part.from_y + y) * static_cast<size_t>(from.width) + static_cast<size_t>(part.from_x));
    const auto out =
        3 * (static_cast<size_t>(part.to_y + y) * static_cast<size_t>(to->width) + static_cast<size_t>(part.to_x));
    std::copy_n(from.rgb.data() + in, 3 * static_cast<size_t>(part.width), to->rgb.data() + out);
  }
}

// Where a crop or pad along one side starts in the source and in the result, and how much is copied.
struct Overlap {
  int from = 0, to = 0, length = 0;
};
Overlap CenterOverlap(int source, int wanted) {
  if (source >= wanted) return {(source - wanted) / 2, 0, wanted};
  return {0, (wanted - source + 1) / 2, source};
}

}  // namespace

absl::StatusOr<Image> Resize(const Image& image, int width, int height, ResampleFilter filter, ResampleKernel kernel) {
  if (!HasPixels(image) || width < 1 || height < 1 || width > kResizeSideMax || height > kResizeSideMax) {
    return absl::InvalidArgumentError(absl::StrCat("resize needs a picture and sides of 1 to ", kResizeSideMax, ": ",
                                                   image.width, " x ", image.height, " to ", width, " x ", height));
  }
  const int64_t between = std::max(int64_t{width} * image.height, int64_t{image.width} * height);
  if (std::max(int64_t{width} * height, between) > kResizePixelsMax) {
    return absl::ResourceExhaustedError(absl::StrCat("resize would need too many pixels; limit ", kResizePixelsMax,
                                                     ": ", image.width, " x ", image.height, " to ", width, " x ",
                                                     height));
  }
  const Kernel shape = KernelOf(filter);
  const bool fast = kernel == ResampleKernel::kFastest && HasAvx2Kernels();
  const bool change_width = width != image.width, change_height = height != image.height;
  if (!change_width) return change_height ? ResizeHeight(image, height, shape, fast) : image;
  if (!change_height) return ResizeWidth(image, width, shape, fast);
  if (ColumnsFirst(image, width, height)) {
    return ResizeWidth(ResizeHeight(image, height, shape, fast), width, shape, fast);
  }
  return ResizeHeight(ResizeWidth(image, width, shape, fast), height, shape, fast);
}

ImageSize ShortestEdgeSize(int width, int height, int shortest_edge) {
  VLM_CHECK(width > 0 && height > 0 && shortest_edge > 0, "sizes must be positive");
  const int shorter = std::min(width, height), longer = std::max(width, height);
  const int other = static_cast<int>(static_cast<double>(int64_t{shortest_edge} * longer) / shorter);
  return width <= height ? ImageSize{shortest_edge, other} : ImageSize{other, shortest_edge};
}

Image CenterCrop(const Image& image, int width, int height) {
  VLM_CHECK(HasPixels(image) && width > 0 && height > 0, "crop needs a picture and a positive size");
  Image out = Blank(width, height);
  const Overlap x = CenterOverlap(image.width, width), y = CenterOverlap(image.height, height);
  CopyRectangle(image, {x.from, y.from, x.to, y.to, x.length, y.length}, &out);
  return out;
}

Image PadToSquare(const Image& image, std::array<uint8_t, 3> fill) {
  VLM_CHECK(HasPixels(image), "padding needs a picture");
  const int side = std::max(image.width, image.height);
  Image out = Blank(side, side);
  for (size_t i = 0; i < out.rgb.size(); ++i) out.rgb[i] = fill[i % 3];
  CopyRectangle(image, {0, 0, (side - image.width) / 2, (side - image.height) / 2, image.width, image.height}, &out);
  return out;
}

}  // namespace vlm::data
