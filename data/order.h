// The order of samples as a pure function of (seed, position): no state, any position in constant time.
#ifndef VLM_DATA_ORDER_H_
#define VLM_DATA_ORDER_H_

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/status.h"

namespace vlm::data {

// Part of every plan's fingerprint: a change of any rule in order.cc or packing.cc raises it.
inline constexpr int kOrderVersion = 1;

// A bijection of [0, size): an eight-round Feistel network over the next power of four, walked until it lands
// inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). Under four rounds of
// walking are expected per call. Requires index < size.
uint64_t Permute(RngKey key, uint64_t size, uint64_t index);

// One source's share of a mixture.
struct MixtureSource {
  uint64_t samples = 0;  // in one pass
  double weight = 1;     // share of positions, relative to the others
};

struct Drawn {
  int source = 0;
  uint64_t sample = 0;  // within the source
  uint64_t epoch = 0;   // passes over the source finished before this draw
};

// An endless sequence over a mixture. Every block of kBlock positions holds each source in proportion to its
// weight (largest remainder), shuffled; within a source every pass is a full permutation of its own.
// Immutable; thread-safe.
class Order {
 public:
  static constexpr uint64_t kBlock = 1024;
  // INVALID_ARGUMENT: no source, an empty source with a positive weight, a weight that is negative or not
  // finite, or so small that a block holds none of it.
  static absl::StatusOr<Order> Create(RngKey key, std::vector<MixtureSource> sources);

  Drawn At(uint64_t position) const;
  // Positions after which each source has been seen at least once in full.
  uint64_t positions_per_epoch() const;

 private:
  Order(RngKey key, std::vector<MixtureSource> sources, std::vector<uint64_t> quota)
      : key_(key),
        sources_(std::move(sources)),
        quota_(std::move(quota)),
        single_(std::count(quota_.begin(), quota_.end(), kBlock) == 1) {}
  RngKey key_;
  std::vector<MixtureSource> sources_;
  std::vector<uint64_t> quota_;  // positions per block, by source
  bool single_;                  // one source has every position
};

}  // namespace vlm::data

#endif  // VLM_DATA_ORDER_H_
