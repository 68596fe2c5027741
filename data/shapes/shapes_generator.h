// A seeded data set of coloured shapes: pictures, captions, questions with answers, and sentences.
#ifndef VLM_DATA_SHAPES_SHAPES_GENERATOR_H_
#define VLM_DATA_SHAPES_SHAPES_GENERATOR_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/file_system.h"
#include "base/status.h"
#include "data/image/image.h"
#include "data/shapes/shapes_vocabulary.h"

namespace vlm::data {

enum class ShapesSplit {
  kSentences,   // text alone, for pretraining
  kCaptions,    // picture and caption, for the connector
  kQuestions,   // picture, question, answer
  kTestScenes,  // questions on held-out triples of trained pairs (counts: fresh pictures); each answer equally often
  kTestPairs,   // the same on colour-shape pairs that no training split has
};

// "sentences", "captions", "questions", "test_scenes", "test_pairs".
std::string_view ShapesSplitName(ShapesSplit split);
// INVALID_ARGUMENT naming the five for any other name.
absl::StatusOr<ShapesSplit> ParseShapesSplit(std::string_view name);

enum class QuestionKind { kColor, kShape, kPosition, kCount };
// "color", "shape", "position", "count": the values of meta.question_kind.
std::string_view QuestionKindName(QuestionKind kind);

enum class PictureEncoding { kJpeg, kPng, kMixed };  // kMixed: each sample's own coin

struct ShapesOptions {
  uint64_t seed = 0;
  int min_size = 32;  // a picture's sides lie in [min_size, max_size], each at most a fifth longer than the other
  int max_size = 64;
  PictureEncoding encoding = PictureEncoding::kMixed;
  int jpeg_quality = 92;
};

// What one picture shows. One large object, or `count` small ones of one colour and shape (then place is -1).
struct ShapesScene {
  bool large = true;
  int count = 1;
  int color = 0;
  int shape = 0;
  int place = -1;
};

struct ShapesSample {
  std::string key;                     // "<split>-<index, 8 digits>"
  std::optional<std::string> picture;  // encoded; absent for sentences
  std::string extension;               // "jpg" or "png"; empty without a picture
  std::string json;                    // one line: OpenAI messages and meta; sentences: {"text": ...} or messages
};

// Every method is a pure function of (options, split, index), on every machine: no call order, no libm.
// Thread-safe.
class ShapesGenerator {
 public:
  // INVALID_ARGUMENT unless 16 <= min_size <= max_size <= 1024 and 1 <= jpeg_quality <= 100.
  static absl::StatusOr<std::unique_ptr<ShapesGenerator>> Create(const ShapesOptions& options);

  // The encoded sample. Fails only as the encoders do.
  absl::StatusOr<ShapesSample> Generate(ShapesSplit split, uint64_t index) const;

  // What Generate's picture shows (for sentences: what the text is about).
  ShapesScene Scene(ShapesSplit split, uint64_t index) const;
  // Generate's picture before encoding. Requires a split with pictures.
  Image Draw(ShapesSplit split, uint64_t index) const;
  // Whether the picture shows nothing, as one in fifty of kQuestions does: asked about it, a model can only learn how
  // often each answer is right, and so the control of an evaluation (the same questions without their pictures)
  // measures that guess and not what a model says to a picture unlike any it has seen.
  bool IsBlank(ShapesSplit split, uint64_t index) const;
  // The kind of question of a sample: index modulo 4, in the order of QuestionKind. Count questions run through
  // one, two, three in turn, so every 12 consecutive samples hold equal numbers of each.
  static QuestionKind KindOf(uint64_t index);

  const ShapesDivision& division() const { return division_; }
  const ShapesOptions& options() const { return options_; }

 private:
  explicit ShapesGenerator(const ShapesOptions& options);
  RngKey SampleKey(ShapesSplit split, uint64_t index) const;

  const ShapesOptions options_;
  const ShapesDivision division_;
};

// Writes samples [first, first + count) of `split` as a tar: per sample `<key>.jpg|png` (not for sentences) and
// `<key>.json`, with the end mark. Does not sync or close. Equal arguments give equal bytes.
absl::Status WriteShapesShard(const ShapesGenerator& generator, ShapesSplit split, uint64_t first, uint64_t count,
                              WritableFile* file);

}  // namespace vlm::data

#endif  // VLM_DATA_SHAPES_SHAPES_GENERATOR_H_
