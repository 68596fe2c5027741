#include "base/random.h"

#include <cmath>
#include <numbers>

#include "base/check.h"

namespace vlm {

uint64_t Mix64(uint64_t word) {
  word += 0x9e3779b97f4a7c15ULL;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ULL;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebULL;
  return word ^ (word >> 31);
}

RngKey RngKey::Derive(uint64_t index) const { return {Mix64(Mix64(value) ^ index)}; }

RngKey RngKey::Derive(std::string_view name) const {
  uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a
  for (const unsigned char byte : name) hash = (hash ^ byte) * 0x100000001b3ULL;
  return {Mix64(Mix64(value) ^ Mix64(hash ^ name.size()))};
}

std::array<uint32_t, 4> Philox(RngKey key, uint64_t counter) {
  uint32_t k0 = static_cast<uint32_t>(key.value), k1 = static_cast<uint32_t>(key.value >> 32);
  std::array<uint32_t, 4> x = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * x[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * x[2];
    x = {static_cast<uint32_t>(product1 >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ x[3] ^ k1, static_cast<uint32_t>(product0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return x;
}

uint64_t Rng::NextU64() {
  if (words_left_ < 2) {
    words_ = Philox(key_, counter_++);
    words_left_ = 4;
  }
  const uint64_t low = words_[4 - words_left_], high = words_[5 - words_left_];
  words_left_ -= 2;
  return low | high << 32;
}

uint64_t Rng::Below(uint64_t bound) {
  VLM_CHECK(bound > 0, "Below needs a positive bound");
  while (true) {
    const unsigned __int128 product = static_cast<unsigned __int128>(NextU64()) * bound;
    const uint64_t low = static_cast<uint64_t>(product);
    if (low >= bound || low >= (0 - bound) % bound) return static_cast<uint64_t>(product >> 64);
  }
}

double Rng::Uniform() { return static_cast<double>(NextU64() >> 11) * 0x1.0p-53; }

double Rng::Normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - Uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * Uniform());
}

}  // namespace vlm
