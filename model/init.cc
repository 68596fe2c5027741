#include "model/init.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>

#include "base/random.h"
#include "model/ops/parallel.h"

namespace vlm::model {
namespace {

constexpr int64_t kWords = 4;  // of one Philox block
constexpr int64_t kBlocksPerThread = 4096;
constexpr double kTwoPi = 6.283185307179586;

// Uniform in (0, 1): the middle of one of 2^32 cells, so the logarithm below is finite.
double Open(uint32_t word) { return (static_cast<double>(word) + 0.5) * 0x1p-32; }

// Four values of unit variance and zero mean from one block: Box-Muller, or a centred uniform.
std::array<double, kWords> Draw(Init::Kind kind, const std::array<uint32_t, 4>& words) {
  std::array<double, kWords> values;
  if (kind == Init::Kind::kUniform) {
    for (int64_t i = 0; i < kWords; ++i) values[i] = (2.0 * Open(words[i]) - 1.0) * std::sqrt(3.0);
    return values;
  }
  for (int64_t i = 0; i < kWords; i += 2) {
    const double radius = std::sqrt(-2.0 * std::log(Open(words[i]))), angle = kTwoPi * Open(words[i + 1]);
    values[i] = radius * std::cos(angle);
    values[i + 1] = radius * std::sin(angle);
  }
  return values;
}

}  // namespace

at::Tensor Initialize(const ParamSpec& spec, uint64_t seed) {
  at::Tensor result = at::zeros(spec.shape, at::kFloat);
  if (spec.init.kind == Init::Kind::kZeros) return result;
  if (spec.init.kind == Init::Kind::kOnes) return result.fill_(1.0);
  const RngKey key = RngKey{Mix64(seed)}.Derive(spec.name);
  const int64_t count = result.numel(), blocks = (count + kWords - 1) / kWords;
  const Init init = spec.init;
  float* data = result.mutable_data_ptr<float>();
  ops::ParallelFor(blocks, kBlocksPerThread, [=](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const auto values = Draw(init.kind, Philox(key, static_cast<uint64_t>(block)));
      const int64_t first = block * kWords, last = std::min(count, first + kWords);
      for (int64_t i = first; i < last; ++i) {
        data[i] = static_cast<float>(init.standard_deviation * values[i - first]);
      }
    }
  });
  return result;
}

}  // namespace vlm::model
