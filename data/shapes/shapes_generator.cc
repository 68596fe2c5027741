#include "data/shapes/shapes_generator.h"

#include <cstdio>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "data/shapes/shapes_drawing.h"
#include "data/shapes/shapes_text.h"

namespace vlm::data {
namespace {

using Json = nlohmann::ordered_json;  // keeps the order of insertion, so that equal samples are equal bytes

constexpr uint64_t kKinds = 4;
constexpr uint64_t kBlankOneIn = 50;

constexpr std::array<std::pair<ShapesSplit, std::string_view>, 5> kSplits = {{
    {ShapesSplit::kSentences, "sentences"},
    {ShapesSplit::kCaptions, "captions"},
    {ShapesSplit::kQuestions, "questions"},
    {ShapesSplit::kTestScenes, "test_scenes"},
    {ShapesSplit::kTestPairs, "test_pairs"},
}};

Json MessagesOf(std::string_view request, std::string_view reply) {
  Json user_content = Json::array({{{"type", "image"}}, {{"type", "text"}, {"text", request}}});
  return Json::array(
      {{{"role", "user"}, {"content", std::move(user_content)}}, {{"role", "assistant"}, {"content", reply}}});
}

// Half of the sentences stand alone, half are conversations.
Json SentenceJson(const ShapesScene& scene, QuestionKind kind, Rng* words) {
  if (words->Below(2) == 0) return Json{{"text", SentenceOf(scene, kind, words)}};
  const TextExchange exchange = ExchangeOf(scene, kind, words);
  Json document;
  document["messages"] = Json::array(
      {{{"role", "user"}, {"content", exchange.request}}, {{"role", "assistant"}, {"content", exchange.reply}}});
  return document;
}

Json MetaOf(const ShapesScene& scene) {
  Json meta;
  meta["color"] = kShapeColors[static_cast<size_t>(scene.color)];
  meta["shape"] = kShapeKinds[static_cast<size_t>(scene.shape)];
  if (scene.large) meta["place"] = kShapePlaces[static_cast<size_t>(scene.place)];
  meta["count"] = scene.count;
  return meta;
}

// What a split shows: (colour, shape, place) of large objects and (colour, shape) of small ones.
struct Contents {
  const std::vector<ShapeTriple>* triples;
  const std::vector<ShapePair>* pairs;
  bool in_turn;  // test splits run through the answers, so that each is right equally often
};

Contents ContentsOf(ShapesSplit split, const ShapesDivision& division) {
  if (split == ShapesSplit::kTestScenes) return {&division.held_out, &division.training_pairs, true};
  if (split == ShapesSplit::kTestPairs) return {&division.unseen, &division.unseen_pairs, true};
  return {&division.training, &division.training_pairs, false};
}

int AnswerIn(const ShapeTriple& triple, QuestionKind kind) {
  if (kind == QuestionKind::kColor) return triple.color;
  return kind == QuestionKind::kShape ? triple.shape : triple.place;
}

// Every answer that `triples` allow to the question equally often, and with each its triples in turn.
const ShapeTriple& TripleInTurn(const std::vector<ShapeTriple>& triples, QuestionKind kind, uint64_t turn) {
  std::map<int, std::vector<const ShapeTriple*>> by_answer;
  for (const ShapeTriple& triple : triples) by_answer[AnswerIn(triple, kind)].push_back(&triple);
  const auto of_answer = std::next(by_answer.begin(), static_cast<std::ptrdiff_t>(turn % by_answer.size()));
  return *of_answer->second[turn / by_answer.size() % of_answer->second.size()];
}

}  // namespace

std::string_view ShapesSplitName(ShapesSplit split) {
  for (const auto& [value, name] : kSplits) {
    if (value == split) return name;
  }
  VLM_CHECK(false, "unknown split");
}

absl::StatusOr<ShapesSplit> ParseShapesSplit(std::string_view name) {
  for (const auto& [value, known] : kSplits) {
    if (known == name) return value;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown split; known are sentences, captions, questions, test_scenes, test_pairs: ",
                   absl::string_view(name.data(), name.size())));
}

std::string_view QuestionKindName(QuestionKind kind) {
  static constexpr std::array<std::string_view, kKinds> kNames = {"color", "shape", "position", "count"};
  return kNames[static_cast<size_t>(kind)];
}

absl::StatusOr<std::unique_ptr<ShapesGenerator>> ShapesGenerator::Create(const ShapesOptions& options) {
  constexpr int kSizeLeast = 16, kSizeMost = 1024;
  if (options.min_size < kSizeLeast || options.max_size > kSizeMost || options.min_size > options.max_size) {
    return absl::InvalidArgumentError(absl::StrCat("shapes: sizes must satisfy ", kSizeLeast,
                                                   " <= min_size <= max_size <= ", kSizeMost, ": ", options.min_size,
                                                   ", ", options.max_size));
  }
  if (options.jpeg_quality < 1 || options.jpeg_quality > 100) {
    return absl::InvalidArgumentError(absl::StrCat("shapes: jpeg_quality must be in 1 to 100: ", options.jpeg_quality));
  }
  return std::unique_ptr<ShapesGenerator>(new ShapesGenerator(options));
}

ShapesGenerator::ShapesGenerator(const ShapesOptions& options)
    : options_(options), division_(DivideShapes(RngKey{options.seed}.Derive("shapes"))) {}

RngKey ShapesGenerator::SampleKey(ShapesSplit split, uint64_t index) const {
  return RngKey{options_.seed}.Derive("shapes").Derive(ShapesSplitName(split)).Derive(index);
}

QuestionKind ShapesGenerator::KindOf(uint64_t index) { return static_cast<QuestionKind>(index % kKinds); }

ShapesScene ShapesGenerator::Scene(ShapesSplit split, uint64_t index) const {
  Rng rng(SampleKey(split, index).Derive("scene"));
  const Contents contents = ContentsOf(split, division_);
  const uint64_t turn = index / kKinds;
  ShapesScene scene;
  if (KindOf(index) == QuestionKind::kCount) {
    const ShapePair& pair = (*contents.pairs)[rng.Below(contents.pairs->size())];
    scene.large = false;
    scene.count = 1 + static_cast<int>(turn % kShapeCounts.size());
    scene.color = pair.color;
    scene.shape = pair.shape;
    return scene;
  }
  const ShapeTriple& triple = contents.in_turn ? TripleInTurn(*contents.triples, KindOf(index), turn)
                                               : (*contents.triples)[rng.Below(contents.triples->size())];
  scene.color = triple.color;
  scene.shape = triple.shape;
  scene.place = triple.place;
  return scene;
}

Image ShapesGenerator::Draw(ShapesSplit split, uint64_t index) const {
  VLM_CHECK(split != ShapesSplit::kSentences, "sentences have no pictures");
  const RngKey key = SampleKey(split, index).Derive("picture");
  return IsBlank(split, index) ? DrawBlank(options_, key) : DrawScene(Scene(split, index), options_, key);
}

bool ShapesGenerator::IsBlank(ShapesSplit split, uint64_t index) const {
  return split == ShapesSplit::kQuestions && Rng(SampleKey(split, index).Derive("blank")).Below(kBlankOneIn) == 0;
}

absl::StatusOr<ShapesSample> ShapesGenerator::Generate(ShapesSplit split, uint64_t index) const {
  const RngKey key = SampleKey(split, index);
  const ShapesScene scene = Scene(split, index);
  const QuestionKind kind = KindOf(index);
  Rng words(key.Derive("words"));
  ShapesSample sample;
  sample.key = absl::StrFormat("%s-%08d", std::string(ShapesSplitName(split)), index);
  if (split == ShapesSplit::kSentences) {
    sample.json = SentenceJson(scene, kind, &words).dump();
    return sample;
  }
  Json document;
  Json meta;
  if (split == ShapesSplit::kCaptions) {
    document["messages"] = MessagesOf(kCaptionInstruction, CaptionOf(scene, &words));
  } else {
    const std::string_view question = QuestionOf(kind, &words);
    document["messages"] = MessagesOf(question, AnswerOf(kind, scene));
    meta["question_kind"] = QuestionKindName(kind);
  }
  meta.update(MetaOf(scene));
  if (IsBlank(split, index)) meta["blank"] = true;
  document["meta"] = std::move(meta);
  sample.json = document.dump();

  Rng coin(key.Derive("encoding"));
  const bool jpeg = options_.encoding == PictureEncoding::kJpeg ||
                    (options_.encoding == PictureEncoding::kMixed && coin.Below(2) == 0);
  const Image image = Draw(split, index);
  sample.extension = std::string(ExtensionOf(jpeg ? ImageFormat::kJpeg : ImageFormat::kPng));
  if (jpeg) {
    VLM_ASSIGN_OR_RETURN(sample.picture, EncodeJpeg(image, options_.jpeg_quality));
  } else {
    VLM_ASSIGN_OR_RETURN(sample.picture, EncodePng(image));
  }
  return sample;
}

}  // namespace vlm::data
