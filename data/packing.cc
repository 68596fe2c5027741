#include "data/packing.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>

#include "base/check.h"
#include "data/order.h"

namespace vlm::data {

std::vector<Pack> PackWindow(std::span<const uint32_t> lengths, uint32_t capacity, RngKey key) {
  std::vector<uint32_t> by_length(lengths.size());
  std::iota(by_length.begin(), by_length.end(), 0u);
  std::sort(by_length.begin(), by_length.end(),
            [&](uint32_t a, uint32_t b) { return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b; });

  std::vector<Pack> packs;
  std::set<std::pair<uint32_t, uint32_t>> room;  // (tokens free, pack): the first that fits leaves least
  for (const uint32_t item : by_length) {
    VLM_CHECK(lengths[item] > 0 && lengths[item] <= capacity, "item does not fit a pack");
    auto best = room.lower_bound({lengths[item], 0});
    uint32_t pack = static_cast<uint32_t>(packs.size());
    uint32_t free = capacity;
    if (best == room.end()) {
      packs.emplace_back();
    } else {
      std::tie(free, pack) = *best;
      room.erase(best);
    }
    packs[pack].push_back(item);
    if (free > lengths[item]) room.emplace(free - lengths[item], pack);
  }

  std::vector<Pack> shuffled(packs.size());
  for (size_t i = 0; i < packs.size(); ++i) {
    std::sort(packs[i].begin(), packs[i].end());
    shuffled[Permute(key, packs.size(), i)] = std::move(packs[i]);
  }
  return shuffled;
}

}  // namespace vlm::data
