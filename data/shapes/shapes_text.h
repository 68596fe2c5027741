// The words of the data set; nothing outside this folder includes it.
#ifndef VLM_DATA_SHAPES_SHAPES_TEXT_H_
#define VLM_DATA_SHAPES_SHAPES_TEXT_H_

#include <string>
#include <string_view>

#include "base/random.h"
#include "data/shapes/shapes_generator.h"

namespace vlm::data {

inline constexpr std::string_view kCaptionInstruction = "Describe the picture.";

// "A large red circle on the left." or "Three small blue squares." and variants drawn from `rng`.
std::string CaptionOf(const ShapesScene& scene, Rng* rng);

// A question of `kind` in one of several wordings.
std::string_view QuestionOf(QuestionKind kind, Rng* rng);

// One lower-case word of the vocabulary.
std::string_view AnswerOf(QuestionKind kind, const ShapesScene& scene);

// Text about `scene` for a model that sees no pictures: a description, a statement that names one of its
// properties, or both.
std::string SentenceOf(const ShapesScene& scene, QuestionKind kind, Rng* rng);

// A conversation about `scene` where words stand for the picture: the request describes it and asks for another
// description or for the answer to a question of `kind`. From it a model learns the form of a chat, and to answer from
// what stands before the question, before it sees any picture.
struct TextExchange {
  std::string request;
  std::string reply;
};
TextExchange ExchangeOf(const ShapesScene& scene, QuestionKind kind, Rng* rng);

}  // namespace vlm::data

#endif  // VLM_DATA_SHAPES_SHAPES_TEXT_H_
