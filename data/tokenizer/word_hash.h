// A fast hash of short byte strings for in-memory tables: never stored, never compared across versions.
#ifndef VLM_DATA_TOKENIZER_WORD_HASH_H_
#define VLM_DATA_TOKENIZER_WORD_HASH_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vlm::data {

// High and low half of the 128-bit product, folded: the mixing step of wyhash (Wang Yi).
inline uint64_t FoldedProduct(uint64_t a, uint64_t b) {
  __extension__ typedef unsigned __int128 Wide;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t LoadWord64(const char* at) {
  uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

// The 1 to 8 bytes at `at` as one number; with the length it identifies them.
inline uint64_t LoadUpTo8(const char* at, size_t bytes) {
  if (bytes == 8) return LoadWord64(at);
  if (bytes >= 4) {
    uint32_t low, high;
    std::memcpy(&low, at, 4);
    std::memcpy(&high, at + bytes - 4, 4);
    return low | static_cast<uint64_t>(high) << (8 * (bytes - 4));
  }
  if (bytes == 0) return 0;
  const uint64_t first = static_cast<uint8_t>(at[0]);
  const uint64_t middle = static_cast<uint8_t>(at[bytes / 2]);
  const uint64_t last = static_cast<uint8_t>(at[bytes - 1]);
  return first | middle << (8 * (bytes / 2)) | last << (8 * (bytes - 1));
}

inline constexpr uint64_t kHashSeedA = 0xA0761D6478BD642F;
inline constexpr uint64_t kHashSeedB = 0xE7037ED1A0B428DB;

inline uint64_t HashWord(const char* at, size_t bytes) {
  uint64_t state = bytes * kHashSeedA;
  size_t left = bytes;
  for (; left > 16; at += 16, left -= 16) {
    state = FoldedProduct(LoadWord64(at) ^ kHashSeedA, LoadWord64(at + 8) ^ kHashSeedB ^ state);
  }
  const uint64_t a = LoadUpTo8(at, left < 8 ? left : 8);
  const uint64_t b = left > 8 ? LoadWord64(at + left - 8) : 0;
  return FoldedProduct(FoldedProduct(a ^ kHashSeedA ^ state, b ^ kHashSeedB) ^ state, kHashSeedA);
}

}  // namespace vlm::data

#endif  // VLM_DATA_TOKENIZER_WORD_HASH_H_
