// What a picture of the shapes data set can show, and which combinations training never sees.
#ifndef VLM_DATA_SHAPES_SHAPES_VOCABULARY_H_
#define VLM_DATA_SHAPES_SHAPES_VOCABULARY_H_

#include <array>
#include <compare>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/random.h"

namespace vlm::data {

inline constexpr std::array<std::string_view, 6> kShapeColors = {"red", "green", "blue", "yellow", "purple", "orange"};
inline constexpr std::array<std::string_view, 4> kShapeKinds = {"circle", "square", "triangle", "cross"};
inline constexpr std::array<std::string_view, 5> kShapePlaces = {"left", "right", "top", "bottom", "center"};
inline constexpr std::array<std::string_view, 3> kShapeCounts = {"one", "two", "three"};

// Indexes into the arrays above.
struct ShapeTriple {
  int color = 0;
  int shape = 0;
  int place = 0;
  friend auto operator<=>(const ShapeTriple&, const ShapeTriple&) = default;
};
struct ShapePair {
  int color = 0;
  int shape = 0;
  friend auto operator<=>(const ShapePair&, const ShapePair&) = default;
};

// The division of all triples, a pure function of the key. `unseen_pairs` have distinct colours and distinct
// shapes and occur in no training split. Held out are kHeldOutTriples triples of other pairs: every colour twice with
// different shapes, every shape three times, every place two or three times, so that answers stay balanced.
// `training` has every (colour, shape) pair outside `unseen_pairs`, every (colour, place) and every (shape, place)
// pair. All lists are sorted.
struct ShapesDivision {
  std::vector<ShapePair> unseen_pairs;    // kUnseenPairs of them
  std::vector<ShapePair> training_pairs;  // all others
  std::vector<ShapeTriple> training;
  std::vector<ShapeTriple> held_out;  // pair seen, triple not
  std::vector<ShapeTriple> unseen;    // every triple of an unseen pair
};
inline constexpr int kUnseenPairs = 3;
inline constexpr int kHeldOutTriples = 12;

ShapesDivision DivideShapes(RngKey key);

}  // namespace vlm::data

#endif  // VLM_DATA_SHAPES_SHAPES_VOCABULARY_H_
