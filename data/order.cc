#include "data/order.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <string>

#include "base/check.h"

namespace vlm::data {
namespace {

constexpr int kRounds = 8;

// Positions per block in proportion to the weights, by largest remainder; ties go to the earlier source.
std::vector<uint64_t> Quotas(const std::vector<MixtureSource>& sources) {
  const double total = std::accumulate(sources.begin(), sources.end(), 0.0,
                                       [](double sum, const MixtureSource& source) { return sum + source.weight; });
  std::vector<uint64_t> quota(sources.size());
  std::vector<std::pair<double, size_t>> remainders;
  uint64_t given = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    const double exact = static_cast<double>(Order::kBlock) * sources[i].weight / total;
    quota[i] = static_cast<uint64_t>(exact);
    given += quota[i];
    remainders.emplace_back(-(exact - std::floor(exact)), i);
  }
  std::sort(remainders.begin(), remainders.end());
  for (size_t i = 0; given < Order::kBlock; ++i, ++given) ++quota[remainders[i % remainders.size()].second];
  return quota;
}

}  // namespace

uint64_t Permute(RngKey key, uint64_t size, uint64_t index) {
  VLM_CHECK(index < size, "permutation index outside its domain");
  if (size == 1) return 0;
  const int half_bits = (std::bit_width(size - 1) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  uint64_t value = index;
  do {
    uint64_t left = value >> half_bits, right = value & mask;
    for (int round = 0; round < kRounds; ++round) {
      const uint64_t mixed = left ^ (Mix64(key.value ^ Mix64(right * kRounds + static_cast<uint64_t>(round))) & mask);
      left = right;
      right = mixed;
    }
    value = left << half_bits | right;
  } while (value >= size);
  return value;
}

absl::StatusOr<Order> Order::Create(RngKey key, std::vector<MixtureSource> sources) {
  if (sources.empty()) return absl::InvalidArgumentError("a mixture needs at least one source");
  double total = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (!std::isfinite(sources[i].weight) || sources[i].weight < 0) {
      return absl::InvalidArgumentError("mixture weight must be finite and not negative: source " + std::to_string(i));
    }
    if (sources[i].weight > 0 && sources[i].samples == 0) {
      return absl::InvalidArgumentError("mixture source has no samples: source " + std::to_string(i));
    }
    total += sources[i].weight;
  }
  if (total <= 0) return absl::InvalidArgumentError("a mixture needs a positive weight");
  std::vector<uint64_t> quota = Quotas(sources);
  for (size_t i = 0; i < sources.size(); ++i) {
    if (sources[i].weight > 0 && quota[i] == 0) {
      return absl::InvalidArgumentError("mixture weight is below 1/1024 of the total: source " + std::to_string(i));
    }
  }
  return Order(key, std::move(sources), std::move(quota));
}

Drawn Order::At(uint64_t position) const {
  const uint64_t block = position / kBlock;
  // Slots of a block in source order, then shuffled by a permutation of the block's own. A source that has the
  // block to itself is shuffled by its passes already, and keeps their borders this way.
  uint64_t slot = position % kBlock;
  if (!single_) slot = Permute(key_.Derive("mixture").Derive(block), kBlock, slot);
  int source = 0;
  while (slot >= quota_[static_cast<size_t>(source)]) slot -= quota_[static_cast<size_t>(source++)];
  const MixtureSource& drawn = sources_[static_cast<size_t>(source)];
  const uint64_t draw = block * quota_[static_cast<size_t>(source)] + slot;
  const uint64_t epoch = draw / drawn.samples;
  const RngKey pass = key_.Derive("source").Derive(static_cast<uint64_t>(source)).Derive(epoch);
  return {source, Permute(pass, drawn.samples, draw % drawn.samples), epoch};
}

uint64_t Order::positions_per_epoch() const {
  uint64_t positions = 0;
  for (size_t i = 0; i < sources_.size(); ++i) {
    if (quota_[i] == 0) continue;
    const uint64_t blocks = (sources_[i].samples + quota_[i] - 1) / quota_[i];
    // A single source fills whole blocks without gaps, so its epoch is exact.
    positions = std::max(positions, quota_[i] == kBlock ? sources_[i].samples : blocks * kBlock);
  }
  return positions;
}

}  // namespace vlm::data
