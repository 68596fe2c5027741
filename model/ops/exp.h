// e^x written so that loops over it vectorize.
#ifndef VLM_MODEL_OPS_EXP_H_
#define VLM_MODEL_OPS_EXP_H_

#include <bit>
#include <cstdint>

namespace vlm::model::ops {

// Relative error below 2e-7 in [-87, 88]; outside, infinities included, the value of the nearer end; NaN stays NaN.
// x = n ln 2 + r, |r| <= ln 2 / 2; e^r by the minimax polynomial of Cephes (S. L. Moshier, single/expf.c), 2^n from the
// exponent bits.
__attribute__((always_inline)) inline float Exp(float x) {
  constexpr float kLog2E = 1.44269504088896341f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to an integer
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float rounded = x * kLog2E + kRound;  // its lowest bits are n's: a unit in its last place is 1
  const float n = rounded - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = p * r * r + r + 1.0f;
  // Not by a conversion of n to an integer, which NaN has none of.
  return mantissa * std::bit_cast<float>((std::bit_cast<uint32_t>(rounded) + 127) << 23);
}

}  // namespace vlm::model::ops

#endif  // VLM_MODEL_OPS_EXP_H_
