// The words of the data set; nothing outside this folder includes it.
#ifndef VLM_DATA_SHAPES_SHAPES_TEXT_H_
#define VLM_DATA_SHAPES_SHAPES_TEXT_H_

#include <string>
#include <string_view>

#include "base/random.h"
#include "data/shapes/shapes_generator.h"

namespace vlm::data {

// "A large red circle on the left." or "Three small blue squares." and variants drawn from `rng`.
std::string CaptionOf(const ShapesScene& scene, Rng* rng);

// A question of `kind` in one of several wordings.
std::string_view QuestionOf(QuestionKind kind, Rng* rng);

// One lower-case word of the vocabulary.
std::string_view AnswerOf(QuestionKind kind, const ShapesScene& scene);

// Text about `scene` for a model that sees no pictures: a description, a statement that names one of its
// properties, or a description with question and answer.
std::string SentenceOf(const ShapesScene& scene, QuestionKind kind, Rng* rng);

}  // namespace vlm::data

#endif  // VLM_DATA_SHAPES_SHAPES_TEXT_H_
