#include "data/shapes/shapes_vocabulary.h"

#include <algorithm>
#include <numeric>
#include <utility>

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

ShapesDivision DivideShapes(RngKey key) {
  Rng rng(key.Derive("division"));
  constexpr size_t kColors = kShapeColors.size(), kKinds = kShapeKinds.size(), kPlaces = kShapePlaces.size();
  ShapesDivision division;
  const auto unseen_colors = Shuffled<kColors>(&rng);
  const auto unseen_kinds = Shuffled<kKinds>(&rng);
  for (size_t i = 0; i < kUnseenPairs; ++i) division.unseen_pairs.push_back({unseen_colors[i], unseen_kinds[i]});
  std::sort(division.unseen_pairs.begin(), division.unseen_pairs.end());

  const auto color_rank = Shuffled<kColors>(&rng);
  const auto kind_rank = Shuffled<kKinds>(&rng);
  const auto place_of_rank = Shuffled<kPlaces>(&rng);
  for (int color = 0; color < static_cast<int>(kColors); ++color) {
    for (int shape = 0; shape < static_cast<int>(kKinds); ++shape) {
      const bool unseen = std::binary_search(division.unseen_pairs.begin(), division.unseen_pairs.end(),
                                             ShapePair{color, shape});
      if (!unseen) division.training_pairs.push_back({color, shape});
      const int rank = color_rank[static_cast<size_t>(color)] + kind_rank[static_cast<size_t>(shape)];
      const int held_out_place = place_of_rank[static_cast<size_t>(rank) % kPlaces];
      for (int place = 0; place < static_cast<int>(kPlaces); ++place) {
        auto& list = unseen ? division.unseen : place == held_out_place ? division.held_out : division.training;
        list.push_back({color, shape, place});
      }
    }
  }
  return division;
}

}  // namespace vlm::data
