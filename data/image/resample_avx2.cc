#include "data/image/resample_kernels.h"

#ifdef __AVX2__

#include <immintrin.h>

#include <algorithm>
#include <array>

// The products are exact: a weight w is cut into signed 16-bit halves, w = high * 2^16 + low, so that
// multiply-add of pairs (vpmaddwd) sums pixel * low and pixel * high without rounding. Intermediate sums may wrap;
// the total fits 32 bits, as in the portable loops, so arithmetic modulo 2^32 gives the same result.
namespace vlm::data {
namespace {

constexpr size_t kRowsAtOnce = 4;
constexpr size_t kTapsAtOnce = 4;
// How far a row is read past its last used byte: three unused taps and a load of 16 bytes for 12.
constexpr size_t kOverRead = 16;

struct Halves {
  int16_t low;
  int16_t high;
};

Halves Split(int32_t weight) {
  const auto low = static_cast<int16_t>(weight & 0xFFFF);
  return {low, static_cast<int16_t>((weight - low) >> 16)};
}

int32_t Pair(int16_t first, int16_t second) {
  return static_cast<int32_t>(static_cast<uint32_t>(static_cast<uint16_t>(first)) |
                              static_cast<uint32_t>(static_cast<uint16_t>(second)) << 16);
}

// Per group of four taps: low 0|1, low 2|3, high 0|1, high 2|3.
using TapGroup = std::array<int32_t, 4>;

std::vector<TapGroup> GroupTaps(const ResampleWeights& weights, size_t groups) {
  std::vector<TapGroup> grouped(weights.outputs * groups);
  for (size_t i = 0; i < weights.outputs; ++i) {
    for (size_t g = 0; g < groups; ++g) {
      std::array<Halves, kTapsAtOnce> halves{};
      for (size_t t = 0; t < kTapsAtOnce; ++t) {
        const size_t tap = g * kTapsAtOnce + t;
        if (tap < weights.taps_max) halves[t] = Split(weights.weights[i * weights.taps_max + tap]);
      }
      grouped[i * groups + g] = {Pair(halves[0].low, halves[1].low), Pair(halves[2].low, halves[3].low),
                                 Pair(halves[0].high, halves[1].high), Pair(halves[2].high, halves[3].high)};
    }
  }
  return grouped;
}

// Rounds, shifts and clamps one RGB pixel (low four sums of `sum`, the fourth unused) into `to`.
void StorePixel(__m256i low, __m256i high, uint8_t* to) {
  const __m256i sums = _mm256_add_epi32(low, _mm256_slli_epi32(high, 16));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(1 << (kWeightBits - 1))), kWeightBits);
  const __m128i words = _mm_packs_epi32(sum, sum);
  const auto bytes = static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(words, words)));
  to[0] = static_cast<uint8_t>(bytes);
  to[1] = static_cast<uint8_t>(bytes >> 8);
  to[2] = static_cast<uint8_t>(bytes >> 16);
}

// Four rows together share the loads of weights. Rows may repeat: the last block of a picture does so.
struct RowBlock {
  std::array<const uint8_t*, kRowsAtOnce> in;
  std::array<uint8_t*, kRowsAtOnce> out;
};

void ResampleBlock(const RowBlock& block, const ResampleWeights& weights, const std::vector<TapGroup>& taps,
                   size_t groups) {
  // One load brings four pixels to both halves; each half spreads two of them to 16-bit pairs R R, G G, B B.
  const __m256i spread = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                          6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const __m256i pick_low = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  const __m256i pick_high = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
  for (size_t x = 0; x < weights.outputs; ++x) {
    const size_t used = (static_cast<size_t>(weights.count[x]) + kTapsAtOnce - 1) / kTapsAtOnce;
    const TapGroup* group = taps.data() + x * groups;
    size_t at = 3 * static_cast<size_t>(weights.first[x]);
    __m256i low[kRowsAtOnce], high[kRowsAtOnce];
    for (size_t r = 0; r < kRowsAtOnce; ++r) low[r] = high[r] = _mm256_setzero_si256();
    for (size_t g = 0; g < used; ++g, at += 3 * kTapsAtOnce) {
      const __m256i packed =
          _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group[g].data())));
      const __m256i weight_low = _mm256_permutevar8x32_epi32(packed, pick_low);
      const __m256i weight_high = _mm256_permutevar8x32_epi32(packed, pick_high);
      for (size_t r = 0; r < kRowsAtOnce; ++r) {
        const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block.in[r] + at));
        const __m256i pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(raw), spread);
        low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(pixels, weight_low));
        high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(pixels, weight_high));
      }
    }
    for (size_t r = 0; r < kRowsAtOnce; ++r) StorePixel(low[r], high[r], block.out[r] + 3 * x);
  }
}

struct ColumnTaps {
  const uint8_t* in;
  size_t stride;
  const int32_t* weights;
  size_t count;
};

// 32 bytes of one output row at byte `x`.
void ResampleColumns32(const ColumnTaps& taps, size_t x, uint8_t* to) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i low[4] = {zero, zero, zero, zero}, high[4] = {zero, zero, zero, zero};
  for (size_t t = 0; t < taps.count; t += 2) {
    const bool single = t + 1 == taps.count;
    const Halves first = Split(taps.weights[t]);
    const Halves second = single ? Halves{0, 0} : Split(taps.weights[t + 1]);
    const __m256i weight_low = _mm256_set1_epi32(Pair(first.low, second.low));
    const __m256i weight_high = _mm256_set1_epi32(Pair(first.high, second.high));
    const uint8_t* row = taps.in + t * taps.stride + x;
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
    const __m256i b = single ? zero : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + taps.stride));
    const __m256i near = _mm256_unpacklo_epi8(a, b), far = _mm256_unpackhi_epi8(a, b);
    const __m256i pairs[4] = {_mm256_unpacklo_epi8(near, zero), _mm256_unpackhi_epi8(near, zero),
                              _mm256_unpacklo_epi8(far, zero), _mm256_unpackhi_epi8(far, zero)};
    for (size_t i = 0; i < 4; ++i) {
      low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(pairs[i], weight_low));
      high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(pairs[i], weight_high));
    }
  }
  const __m256i half = _mm256_set1_epi32(1 << (kWeightBits - 1));
  __m256i sum[4];
  for (size_t i = 0; i < 4; ++i) {
    const __m256i total = _mm256_add_epi32(low[i], _mm256_slli_epi32(high[i], 16));
    sum[i] = _mm256_srai_epi32(_mm256_add_epi32(total, half), kWeightBits);
  }
  // Packing works within 128-bit halves, as the unpacking did, so the order is the original one.
  const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(sum[0], sum[1]), _mm256_packs_epi32(sum[2], sum[3]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + x), bytes);
}

}  // namespace

void ResampleRowsAvx2(const ByteRows& in, const ResampleWeights& weights, std::span<uint8_t> out) {
  const size_t groups = (weights.taps_max + kTapsAtOnce - 1) / kTapsAtOnce;
  const std::vector<TapGroup> taps = GroupTaps(weights, groups);
  // Rows too near the end of the picture to be over-read are copied first.
  const size_t scratch_stride = in.row_bytes + kOverRead;
  std::vector<uint8_t> scratch(kRowsAtOnce * scratch_stride);
  for (size_t y = 0; y < in.rows; y += kRowsAtOnce) {
    RowBlock block;
    for (size_t r = 0; r < kRowsAtOnce; ++r) {
      const size_t row = std::min(y + r, in.rows - 1);
      const size_t offset = row * in.row_bytes;
      block.in[r] = in.bytes.data() + offset;
      block.out[r] = out.data() + row * 3 * weights.outputs;
      if (offset + in.row_bytes + kOverRead > in.bytes.size()) {
        uint8_t* copy = scratch.data() + r * scratch_stride;
        std::copy_n(block.in[r], in.row_bytes, copy);
        block.in[r] = copy;
      }
    }
    ResampleBlock(block, weights, taps, groups);
  }
}

void ResampleColumnsAvx2(const ByteRows& in, const ResampleWeights& weights, std::span<uint8_t> out) {
  constexpr size_t kBytes = 32;
  if (in.row_bytes < kBytes) {
    ResampleColumnsPortable(in, weights, out);
    return;
  }
  for (size_t y = 0; y < weights.outputs; ++y) {
    const ColumnTaps taps{in.bytes.data() + static_cast<size_t>(weights.first[y]) * in.row_bytes, in.row_bytes,
                          weights.weights.data() + y * weights.taps_max, static_cast<size_t>(weights.count[y])};
    uint8_t* to = out.data() + y * in.row_bytes;
    size_t x = 0;
    for (; x + kBytes <= in.row_bytes; x += kBytes) ResampleColumns32(taps, x, to);
    // The rest overlaps bytes already done: they come out the same.
    if (x < in.row_bytes) ResampleColumns32(taps, in.row_bytes - kBytes, to);
  }
}

bool HasAvx2Kernels() { return __builtin_cpu_supports("avx2") != 0; }

}  // namespace vlm::data

#else

namespace vlm::data {

void ResampleRowsAvx2(const ByteRows& in, const ResampleWeights& weights, std::span<uint8_t> out) {
  ResampleRowsPortable(in, weights, out);
}

void ResampleColumnsAvx2(const ByteRows& in, const ResampleWeights& weights, std::span<uint8_t> out) {
  ResampleColumnsPortable(in, weights, out);
}

bool HasAvx2Kernels() { return false; }

}  // namespace vlm::data

#endif  // __AVX2__
