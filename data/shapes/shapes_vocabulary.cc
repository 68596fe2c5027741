#include "data/shapes/shapes_vocabulary.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace vlm::data {
namespace {

// A uniform permutation of 0 .. N-1 (Fisher and Yates).
template <size_t N>
std::array<int, N> Shuffled(Rng* rng) {
  std::array<int, N> order;
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = N - 1; i > 0; --i) std::swap(order[i], order[rng->Below(i + 1)]);
  return order;
}

}  // namespace

// Ranks are the shuffled colours and shapes. Where the sum of two ranks is even the pair has a held-out place, so
// each colour has two and each shape three; the unseen pairs are chosen where the sum is odd.
ShapesDivision DivideShapes(RngKey key) {
  Rng rng(key.Derive("division"));
  constexpr int kColors = kShapeColors.size(), kKinds = kShapeKinds.size(), kPlaces = kShapePlaces.size();
  const auto color_at = Shuffled<kColors>(&rng);
  const auto kind_at = Shuffled<kKinds>(&rng);
  const auto place_at = Shuffled<kPlaces>(&rng);
  ShapesDivision division;
  size_t held_out = 0;
  for (int color_rank = 0; color_rank < kColors; ++color_rank) {
    for (int kind_rank = 0; kind_rank < kKinds; ++kind_rank) {
      const int color = color_at[static_cast<size_t>(color_rank)], shape = kind_at[static_cast<size_t>(kind_rank)];
      const bool unseen = kind_rank == color_rank + 1 && color_rank < kUnseenPairs;
      (unseen ? division.unseen_pairs : division.training_pairs).push_back({color, shape});
      const bool has_held_out = (color_rank + kind_rank) % 2 == 0;
      const int held_out_place = has_held_out ? place_at[held_out++ % kPlaces] : -1;
      for (int place = 0; place < kPlaces; ++place) {
        auto& list = unseen ? division.unseen : place == held_out_place ? division.held_out : division.training;
        list.push_back({color, shape, place});
      }
    }
  }
  VLM_CHECK(division.held_out.size() == kHeldOutTriples, "held-out triples are twelve by construction");
  std::sort(division.unseen_pairs.begin(), division.unseen_pairs.end());
  std::sort(division.training_pairs.begin(), division.training_pairs.end());
  for (auto* list : {&division.training, &division.held_out, &division.unseen}) std::sort(list->begin(), list->end());
  return division;
}

}  // namespace vlm::data
