// Reads an input of a structured target as a row of small choices. Past its end everything is zero, which every target
// takes as "nothing more".
#ifndef VLM_TESTS_FUZZ_FUZZ_INPUT_H_
#define VLM_TESTS_FUZZ_FUZZ_INPUT_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace vlm::fuzz {

// Not thread-safe. `bytes` must outlive it.
class FuzzInput {
 public:
  explicit FuzzInput(std::string_view bytes) : bytes_(bytes) {}
  FuzzInput(const uint8_t* data, size_t size) : bytes_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return bytes_.empty(); }
  size_t size() const { return bytes_.size(); }

  uint8_t Byte() {
    if (bytes_.empty()) return 0;
    const char first = bytes_.front();
    bytes_.remove_prefix(1);
    return static_cast<uint8_t>(first);
  }

  // Less than `bound`, which must be 1 to 256.
  size_t Below(size_t bound) { return Byte() % bound; }

  // Mostly small, else at the edge of a type, else any 64 bits.
  uint64_t Number() {
    constexpr uint64_t kEdges[] = {0x7f,       0x80,       0xff,           0x7fff,         0xffff,
                                   0x7fffffff, 0x80000000, 0xffffffff,     0x100000000,    INT64_MAX,
                                   1ULL << 63, UINT64_MAX, UINT64_MAX - 1, 315'576'000'000};
    const uint8_t first = Byte();
    if (first < 200) return first;
    if (first < 250) return kEdges[(first - 200U) % (sizeof(kEdges) / sizeof(kEdges[0]))];
    uint64_t number = 0;
    for (int i = 0; i < 8; ++i) number = number << 8 | Byte();
    return number;
  }

  // Up to 255 bytes, as many as the next byte says and there are.
  std::string_view Text() { return Take(Byte()); }
  // The next bytes, as many as there are.
  std::string_view Take(size_t count) {
    const std::string_view taken = bytes_.substr(0, count);
    bytes_.remove_prefix(taken.size());
    return taken;
  }
  std::string_view Rest() { return std::exchange(bytes_, {}); }

  // `choices` must not be empty and have at most 256.
  template <typename T>
  const T& Pick(const std::vector<T>& choices) {
    return choices[Below(choices.size())];
  }

 private:
  std::string_view bytes_;
};

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_FUZZ_INPUT_H_
