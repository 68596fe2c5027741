// Counter-based randomness: a value is a pure function of (key, counter), never of call order.
#ifndef VLM_BASE_RANDOM_H_
#define VLM_BASE_RANDOM_H_

#include <array>
#include <cstdint>
#include <string_view>

namespace vlm {

// 64 bits that identify a random stream. Derive() makes independent children, so that adding a consumer
// never shifts another's numbers.
struct RngKey {
  uint64_t value = 0;
  RngKey Derive(uint64_t index) const;
  RngKey Derive(std::string_view name) const;
  friend bool operator==(const RngKey&, const RngKey&) = default;
};

// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC11): the four words at
// `counter` of the stream `key`.
std::array<uint32_t, 4> Philox(RngKey key, uint64_t counter);

// SplitMix64's finaliser (Steele et al. 2014): a bijection of 64-bit words.
uint64_t Mix64(uint64_t word);

// A cursor over one stream, for code that draws values one after another. Not thread-safe.
class Rng {
 public:
  explicit Rng(RngKey key) : key_(key) {}
  uint64_t NextU64();
  // Uniform in [0, bound), without modulo bias (Lemire 2019). Requires bound > 0.
  uint64_t Below(uint64_t bound);
  // Uniform in [0, 1), 53 bits.
  double Uniform();
  // Standard normal (Box-Muller).
  double Normal();

 private:
  RngKey key_;
  uint64_t counter_ = 0;
  std::array<uint32_t, 4> words_{};
  int words_left_ = 0;
};

}  // namespace vlm

#endif  // VLM_BASE_RANDOM_H_
