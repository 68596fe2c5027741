#include "data/shapes/shapes_text.h"

#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace vlm::data {
namespace {

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

absl::string_view ColorOf(const ShapesScene& scene) { return Absl(kShapeColors[static_cast<size_t>(scene.color)]); }
absl::string_view KindNameOf(const ShapesScene& scene) { return Absl(kShapeKinds[static_cast<size_t>(scene.shape)]); }
absl::string_view CountOf(const ShapesScene& scene) { return Absl(kShapeCounts[static_cast<size_t>(scene.count - 1)]); }

// In the order of kShapePlaces.
constexpr std::array<std::string_view, kShapePlaces.size()> kPlacePhrases = {
    "on the left", "on the right", "at the top", "at the bottom", "in the center"};

absl::string_view PlacePhrase(const ShapesScene& scene) {
  return Absl(kPlacePhrases[static_cast<size_t>(scene.place)]);
}

std::string Plural(const ShapesScene& scene) {
  if (scene.count == 1) return std::string(KindNameOf(scene));
  return absl::StrCat(KindNameOf(scene), KindNameOf(scene) == "cross" ? "es" : "s");
}

// "large red circle on the left" or "three small blue squares".
std::string NounPhrase(const ShapesScene& scene) {
  if (scene.large) return absl::StrCat("large ", ColorOf(scene), " ", KindNameOf(scene), " ", PlacePhrase(scene));
  return absl::StrCat(CountOf(scene), " small ", ColorOf(scene), " ", Plural(scene));
}

std::string Capitalised(std::string text) {
  text[0] = absl::ascii_toupper(static_cast<unsigned char>(text[0]));
  return text;
}

std::string StatementOf(const ShapesScene& scene, QuestionKind kind) {
  const absl::string_view color = ColorOf(scene), shape = KindNameOf(scene);
  switch (kind) {
    case QuestionKind::kColor:
      return absl::StrCat("The large ", shape, " ", PlacePhrase(scene), " is ", color, ".");
    case QuestionKind::kShape:
      return absl::StrCat("The large ", color, " shape ", PlacePhrase(scene), " is a ", shape, ".");
    case QuestionKind::kPosition:
      return absl::StrCat("The large ", color, " ", shape, " is ", PlacePhrase(scene), ".");
    case QuestionKind::kCount:
      break;
  }
  return absl::StrCat("The number of small ", color, " shapes is ", CountOf(scene), ".");
}

}  // namespace

std::string CaptionOf(const ShapesScene& scene, Rng* rng) {
  const std::string phrase = NounPhrase(scene);
  const std::string_view article = scene.large ? "a " : "";
  const bool plural = !scene.large && scene.count > 1;
  switch (rng->Below(3)) {
    case 0:
      return Capitalised(absl::StrCat(Absl(article), phrase, "."));
    case 1:
      return absl::StrCat("The picture shows ", Absl(article), phrase, ".");
    default:
      return absl::StrCat(plural ? "There are " : "There is ", Absl(article), phrase, ".");
  }
}

std::string_view QuestionOf(QuestionKind kind, Rng* rng) {
  using Wordings = std::array<std::string_view, 3>;
  static constexpr std::array<Wordings, 4> kQuestions = {{
      {"What color is the shape?", "Which color does the shape have?", "Name the color of the shape."},
      {"What shape is it?", "Which shape is in the picture?", "Name the shape."},
      {"Where is the shape?", "Where in the picture is the shape?", "Name the place of the shape."},
      {"How many shapes are there?", "How many shapes do you see?", "Count the shapes."},
  }};
  const Wordings& wordings = kQuestions[static_cast<size_t>(kind)];
  return wordings[rng->Below(wordings.size())];
}

std::string_view AnswerOf(QuestionKind kind, const ShapesScene& scene) {
  switch (kind) {
    case QuestionKind::kColor:
      return kShapeColors[static_cast<size_t>(scene.color)];
    case QuestionKind::kShape:
      return kShapeKinds[static_cast<size_t>(scene.shape)];
    case QuestionKind::kPosition:
      return kShapePlaces[static_cast<size_t>(scene.place)];
    case QuestionKind::kCount:
      break;
  }
  return kShapeCounts[static_cast<size_t>(scene.count - 1)];
}

std::string SentenceOf(const ShapesScene& scene, QuestionKind kind, Rng* rng) {
  switch (rng->Below(3)) {
    case 0:
      return CaptionOf(scene, rng);
    case 1:
      return StatementOf(scene, kind);
    default:
      return absl::StrCat(CaptionOf(scene, rng), " ", StatementOf(scene, kind));
  }
}

TextExchange ExchangeOf(const ShapesScene& scene, QuestionKind kind, Rng* rng) {
  const std::string description = CaptionOf(scene, rng);
  if (rng->Below(2) == 0) {
    return {absl::StrCat(description, " ", Absl(kCaptionInstruction)), CaptionOf(scene, rng)};
  }
  return {absl::StrCat(description, " ", Absl(QuestionOf(kind, rng))), std::string(AnswerOf(kind, scene))};
}

}  // namespace vlm::data
