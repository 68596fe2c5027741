// The generated data set: divisions, balance, determinism and form.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "base/digest.h"
#include "data/shapes/shapes_generator.h"
#include "data/tar/tar_reader.h"
#include "tests/unit/image/oracle.h"

namespace vlm::data {
namespace {

constexpr ShapesSplit kTraining[] = {ShapesSplit::kSentences, ShapesSplit::kCaptions, ShapesSplit::kQuestions};
constexpr ShapesSplit kTests[] = {ShapesSplit::kTestScenes, ShapesSplit::kTestPairs};

std::unique_ptr<ShapesGenerator> GeneratorOf(uint64_t seed, PictureEncoding encoding = PictureEncoding::kMixed) {
  ShapesOptions options;
  options.seed = seed;
  options.encoding = encoding;
  auto generator = ShapesGenerator::Create(options);
  EXPECT_TRUE(generator.ok()) << generator.status();
  return *std::move(generator);
}

std::string ShardOf(const ShapesGenerator& generator, ShapesSplit split, uint64_t first, uint64_t count) {
  MemoryFile file;
  const absl::Status status = WriteShapesShard(generator, split, first, count, &file);
  EXPECT_TRUE(status.ok()) << status;
  return file.contents();
}

TEST(ShapesDivisionTest, EveryPairOccursInTrainingForEverySeed) {
  std::set<std::vector<ShapeTriple>> divisions;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const ShapesDivision division = DivideShapes(RngKey{seed});
    divisions.insert(division.held_out);
    EXPECT_EQ(division.training.size() + division.held_out.size() + division.unseen.size(), 6 * 4 * 5);
    EXPECT_EQ(division.held_out.size(), 12);
    EXPECT_EQ(division.unseen.size(), kUnseenPairs * 5);
    std::set<std::pair<int, int>> color_shape, color_place, shape_place;
    for (const ShapeTriple& triple : division.training) {
      color_shape.insert({triple.color, triple.shape});
      color_place.insert({triple.color, triple.place});
      shape_place.insert({triple.shape, triple.place});
    }
    EXPECT_EQ(color_shape.size(), 6 * 4 - kUnseenPairs);
    EXPECT_EQ(color_place.size(), 6 * 5);
    EXPECT_EQ(shape_place.size(), 4 * 5);
    for (const ShapeTriple& triple : division.held_out) {
      EXPECT_TRUE(color_shape.contains({triple.color, triple.shape}));
      EXPECT_FALSE(std::binary_search(division.training.begin(), division.training.end(), triple));
    }
    std::set<int> unseen_colors, unseen_shapes;
    for (const ShapePair& pair : division.unseen_pairs) {
      EXPECT_FALSE(color_shape.contains({pair.color, pair.shape}));
      unseen_colors.insert(pair.color);
      unseen_shapes.insert(pair.shape);
    }
    EXPECT_EQ(unseen_colors.size(), kUnseenPairs);
    EXPECT_EQ(unseen_shapes.size(), kUnseenPairs);
  }
  EXPECT_GT(divisions.size(), 250);
}

// By what the samples say of themselves, not by the generator's own lists.
TEST(ShapesGeneratorTest, TestScenesAreNewAndTheirPairsAreNot) {
  const auto generator = GeneratorOf(7);
  std::set<std::string> trained_triples, trained_pairs;
  const auto walk = [&](ShapesSplit split, const auto& see) {
    for (uint64_t index = 0; index < 2000; ++index) {
      const auto sample = generator->Generate(split, index);
      const auto meta = nlohmann::json::parse(sample->json)["meta"];
      const std::string pair = meta["color"].get<std::string>() + " " + meta["shape"].get<std::string>();
      see(pair, meta.contains("place") ? pair + " " + meta["place"].get<std::string>() : "");
    }
  };
  for (const ShapesSplit split : {ShapesSplit::kCaptions, ShapesSplit::kQuestions}) {
    walk(split, [&](const std::string& pair, const std::string& triple) {
      trained_pairs.insert(pair);
      if (!triple.empty()) trained_triples.insert(triple);
    });
  }
  EXPECT_EQ(trained_pairs.size(), 21);
  EXPECT_EQ(trained_triples.size(), 93);
  std::map<std::string, int> asked;
  walk(ShapesSplit::kTestScenes, [&](const std::string& pair, const std::string& triple) {
    EXPECT_TRUE(trained_pairs.contains(pair));
    if (triple.empty()) return;
    EXPECT_FALSE(trained_triples.contains(triple)) << triple;
    ++asked[triple];
  });
  EXPECT_EQ(asked.size(), 12);
  // Two or three of the twelve share a place, and places are asked for equally often.
  for (const auto& [triple, times] : asked) EXPECT_NEAR(times, 1500.0 / 12, 10) << triple;
  walk(ShapesSplit::kTestPairs,
       [&](const std::string& pair, const std::string&) { EXPECT_FALSE(trained_pairs.contains(pair)) << pair; });
}

TEST(ShapesGeneratorTest, SentencesNameNoUnseenPair) {
  const auto generator = GeneratorOf(7);
  std::set<std::string> texts;
  int conversations = 0;
  for (uint64_t index = 0; index < 3000; ++index) {
    const auto sample = generator->Generate(ShapesSplit::kSentences, index);
    EXPECT_FALSE(sample->picture.has_value());
    const auto document = nlohmann::json::parse(sample->json);
    std::string text;
    if (document.contains("text")) {
      text = document["text"];
    } else {
      ASSERT_EQ(document["messages"].size(), 2);
      text =
          document["messages"][0]["content"].get<std::string>() + document["messages"][1]["content"].get<std::string>();
      ++conversations;
    }
    texts.insert(text);
    for (const ShapePair& pair : generator->division().unseen_pairs) {
      const std::string words = std::string(kShapeColors[static_cast<size_t>(pair.color)]) + " " +
                                std::string(kShapeKinds[static_cast<size_t>(pair.shape)]);
      EXPECT_FALSE(absl::StrContains(text, words)) << text;
    }
  }
  EXPECT_GT(texts.size(), 800);
  EXPECT_NEAR(conversations, 1500, 150);
}

// A conversation without a picture can be answered from its request alone.
TEST(ShapesGeneratorTest, RepliesOfSentencesFollowFromTheirRequests) {
  const auto generator = GeneratorOf(9);
  int answers = 0;
  for (uint64_t index = 0; index < 400; ++index) {
    const auto document = nlohmann::json::parse(generator->Generate(ShapesSplit::kSentences, index)->json);
    if (!document.contains("messages")) continue;
    const std::string request = document["messages"][0]["content"], reply = document["messages"][1]["content"];
    if (absl::EndsWith(request, "Describe the picture.")) {
      const ShapesScene scene = generator->Scene(ShapesSplit::kSentences, index);
      EXPECT_TRUE(absl::StrContains(reply, std::string(kShapeColors[static_cast<size_t>(scene.color)]))) << reply;
      continue;
    }
    ++answers;
    EXPECT_TRUE(absl::StrContains(absl::AsciiStrToLower(request), reply)) << request << " " << reply;
  }
  EXPECT_GT(answers, 50);
}

TEST(ShapesGeneratorTest, KindsAndCountsComeInEqualNumbers) {
  const auto generator = GeneratorOf(3);
  for (const ShapesSplit split : {ShapesSplit::kQuestions, ShapesSplit::kTestScenes, ShapesSplit::kTestPairs}) {
    std::map<std::string, int> kinds, counts;
    for (uint64_t index = 24; index < 24 + 240; ++index) {
      const auto document = nlohmann::json::parse(generator->Generate(split, index)->json);
      const std::string kind = document["meta"]["question_kind"];
      ++kinds[kind];
      if (kind == "count") ++counts[document["messages"][1]["content"]];
    }
    EXPECT_EQ(kinds, (std::map<std::string, int>{{"color", 60}, {"shape", 60}, {"position", 60}, {"count", 60}}));
    EXPECT_EQ(counts, (std::map<std::string, int>{{"one", 20}, {"two", 20}, {"three", 20}}));
  }
}

// So that whoever sees no picture, and always answers the same, is right no more often than anybody else.
TEST(ShapesGeneratorTest, AnswersOfTestsComeInEqualNumbers) {
  const auto generator = GeneratorOf(8);
  for (const ShapesSplit split : {ShapesSplit::kTestScenes, ShapesSplit::kTestPairs}) {
    std::map<std::string, std::map<std::string, int>> answers;
    for (uint64_t index = 0; index < 4 * 60; ++index) {
      const auto document = nlohmann::json::parse(generator->Generate(split, index)->json);
      ++answers[document["meta"]["question_kind"]][document["messages"][1]["content"]];
    }
    EXPECT_EQ(answers["position"].size(), 5);
    EXPECT_EQ(answers["color"].size(), split == ShapesSplit::kTestScenes ? 6 : 3);
    for (const auto& [kind, of_kind] : answers) {
      for (const auto& [answer, times] : of_kind) EXPECT_EQ(times * of_kind.size(), 60) << kind << " " << answer;
    }
  }
}

TEST(ShapesGeneratorTest, OneQuestionInFiftyHasABlankPicture) {
  const auto generator = GeneratorOf(9);
  int blanks = 0;
  for (uint64_t index = 0; index < 5000; ++index) {
    for (const ShapesSplit split : {ShapesSplit::kCaptions, ShapesSplit::kTestScenes, ShapesSplit::kTestPairs}) {
      ASSERT_FALSE(generator->IsBlank(split, index));
    }
    if (!generator->IsBlank(ShapesSplit::kQuestions, index)) continue;
    ++blanks;
    const Image image = generator->Draw(ShapesSplit::kQuestions, index);
    EXPECT_TRUE(std::all_of(image.rgb.begin(), image.rgb.end(), [](uint8_t value) { return value == 127; }));
    EXPECT_TRUE(nlohmann::json::parse(generator->Generate(ShapesSplit::kQuestions, index)->json)["meta"]["blank"]);
  }
  EXPECT_NEAR(blanks, 100, 40);
}

TEST(ShapesGeneratorTest, AnswersAgreeWithTheScene) {
  const auto generator = GeneratorOf(4);
  for (const ShapesSplit split : {ShapesSplit::kQuestions, ShapesSplit::kTestScenes, ShapesSplit::kTestPairs}) {
    for (uint64_t index = 0; index < 400; ++index) {
      const auto document = nlohmann::json::parse(generator->Generate(split, index)->json);
      const auto& meta = document["meta"];
      const auto& messages = document["messages"];
      ASSERT_EQ(messages.size(), 2);
      EXPECT_EQ(messages[0]["role"], "user");
      EXPECT_EQ(messages[0]["content"][0]["type"], "image");
      EXPECT_EQ(messages[0]["content"][1]["type"], "text");
      EXPECT_EQ(messages[1]["role"], "assistant");
      const std::string kind = meta["question_kind"], answer = messages[1]["content"];
      if (kind == "count") {
        EXPECT_EQ(answer, kShapeCounts[meta["count"].get<size_t>() - 1]);
        EXPECT_FALSE(meta.contains("place"));
      } else {
        EXPECT_EQ(answer, meta[kind == "position" ? "place" : kind].get<std::string>());
        EXPECT_EQ(meta["count"], 1);
      }
    }
  }
}

// The drawn pixels, not only the words: the middle of a large object has its colour, and the far side has not.
TEST(ShapesGeneratorTest, PicturesShowWhatTheySay) {
  const auto generator = GeneratorOf(5);
  const double centers[5][2] = {{0.3, 0.5}, {0.7, 0.5}, {0.5, 0.3}, {0.5, 0.7}, {0.5, 0.5}};
  const int paint[6][3] = {{215, 40, 45}, {45, 165, 65}, {45, 85, 215}, {240, 215, 50}, {145, 55, 185}, {245, 135, 30}};
  for (uint64_t index = 0; index < 400; ++index) {
    const ShapesScene scene = generator->Scene(ShapesSplit::kQuestions, index);
    if (!scene.large || generator->IsBlank(ShapesSplit::kQuestions, index)) continue;
    const Image image = generator->Draw(ShapesSplit::kQuestions, index);
    const auto mean_distance = [&](double x, double y) {  // of a patch of 3 x 3 from the paint
      int total = 0;
      for (int dy = -1; dy <= 1; ++dy) {
        for (int dx = -1; dx <= 1; ++dx) {
          const int at_x = static_cast<int>(x * image.width) + dx, at_y = static_cast<int>(y * image.height) + dy;
          for (int c = 0; c < 3; ++c) {
            const auto at = static_cast<size_t>(3 * (at_y * image.width + at_x) + c);
            total += std::abs(image.rgb[at] - paint[scene.color][c]);
          }
        }
      }
      return total / 27.0;
    };
    const double x = centers[scene.place][0], y = centers[scene.place][1];
    const double here = mean_distance(x, y);
    EXPECT_LT(here, 30) << index;
    if (scene.place < 4) {
      EXPECT_GT(mean_distance(1 - x, 1 - y), here + 5) << index;
    }
  }
}

TEST(ShapesGeneratorTest, SizesStayInTheirBounds) {
  const auto generator = GeneratorOf(6);
  std::set<int> widths, heights;
  for (uint64_t index = 0; index < 600; ++index) {
    const Image image = generator->Draw(ShapesSplit::kCaptions, index);
    widths.insert(image.width);
    heights.insert(image.height);
    EXPECT_LE(std::max(image.width, image.height) * 5, std::min(image.width, image.height) * 6);
  }
  EXPECT_EQ(*widths.begin(), 32);
  EXPECT_EQ(*widths.rbegin(), 64);
  EXPECT_GE(*heights.begin(), 32);
  EXPECT_LE(*heights.rbegin(), 64);
  EXPECT_GT(heights.size(), 25);
}

TEST(ShapesGeneratorTest, SamplesDependOnNothingButSeedSplitAndIndex) {
  const auto generator = GeneratorOf(8), again = GeneratorOf(8), other = GeneratorOf(9);
  // Backwards on one, forwards on the other.
  std::map<uint64_t, std::string> backwards;
  for (uint64_t index = 50; index-- > 0;) {
    backwards[index] = *generator->Generate(ShapesSplit::kQuestions, index)->picture;
  }
  int different = 0;
  for (uint64_t index = 0; index < 50; ++index) {
    EXPECT_EQ(*again->Generate(ShapesSplit::kQuestions, index)->picture, backwards[index]);
    different += *other->Generate(ShapesSplit::kQuestions, index)->picture != backwards[index] ? 1 : 0;
  }
  EXPECT_EQ(different, 50);
  // Two halves hold what one whole holds.
  const auto samples_of = [](const std::string& archive) {
    std::map<std::string, std::string> contents;
    const MemoryFile file(archive);
    const auto members = IndexTar(file, "shard");
    EXPECT_TRUE(members.ok()) << members.status();
    for (const TarMember& member : *members) contents[member.name] = *ReadTarMember(file, "shard", member);
    return contents;
  };
  auto halves = samples_of(ShardOf(*generator, ShapesSplit::kCaptions, 0, 20));
  halves.merge(samples_of(ShardOf(*generator, ShapesSplit::kCaptions, 20, 20)));
  EXPECT_EQ(halves, samples_of(ShardOf(*again, ShapesSplit::kCaptions, 0, 40)));
  EXPECT_EQ(halves.size(), 80);
}

// The same pixels with every compiler and processor: a digest of pictures before encoding.
TEST(ShapesGeneratorTest, PixelsAreTheRecordedOnes) {
  const auto generator = GeneratorOf(1);
  Sha256 digest;
  for (const ShapesSplit split : {ShapesSplit::kCaptions, ShapesSplit::kTestScenes}) {
    for (uint64_t index = 0; index < 40; ++index) {
      const Image image = generator->Draw(split, index);
      digest.Update(std::as_bytes(std::span(image.rgb)));
    }
  }
  EXPECT_EQ(digest.Finish().Hex(), "e7aa424bea4dc9959f79dcb993a4a631139952be8e490a6ecff203bd4efeb68d");
}

TEST(ShapesShardTest, ShardsAreWebDatasetSamples) {
  const auto generator = GeneratorOf(2);
  int jpegs = 0, pngs = 0;
  for (const ShapesSplit split : {ShapesSplit::kCaptions, ShapesSplit::kQuestions, ShapesSplit::kTestScenes}) {
    const MemoryFile file(ShardOf(*generator, split, 100, 60));
    const auto samples = IndexSamples(file, "shard");
    ASSERT_TRUE(samples.ok()) << samples.status();
    ASSERT_EQ(samples->size(), 60);
    EXPECT_EQ((*samples)[0].key, std::string(ShapesSplitName(split)) + "-00000100");
    for (const TarSample& sample : *samples) {
      ASSERT_EQ(sample.parts.size(), 2);
      ASSERT_NE(sample.Find("json"), nullptr);
      const bool jpeg = sample.Find("jpg") != nullptr;
      ++(jpeg ? jpegs : pngs);
      const TarSamplePart* picture = sample.Find(jpeg ? "jpg" : "png");
      ASSERT_NE(picture, nullptr);
      const auto image = DecodeImage(BytesOf(*ReadSamplePart(file, "shard", *picture)), DecodeLimits{});
      ASSERT_TRUE(image.ok()) << image.status();
    }
  }
  EXPECT_GT(jpegs, 60);
  EXPECT_GT(pngs, 60);
  const auto sentences = IndexSamples(MemoryFile(ShardOf(*generator, ShapesSplit::kSentences, 0, 10)), "shard");
  ASSERT_EQ(sentences->size(), 10);
  EXPECT_EQ((*sentences)[0].parts.size(), 1);
}

TEST(ShapesShardTest, EncodingIsAsAsked) {
  for (const auto& [encoding, extension] :
       {std::pair{PictureEncoding::kJpeg, "jpg"}, std::pair{PictureEncoding::kPng, "png"}}) {
    const auto generator = GeneratorOf(2, encoding);
    for (uint64_t index = 0; index < 20; ++index) {
      const auto sample = generator->Generate(ShapesSplit::kQuestions, index);
      EXPECT_EQ(sample->extension, extension);
      EXPECT_EQ(ExtensionOf(ReadImageHeader(BytesOf(*sample->picture))->format), extension);
    }
  }
}

TEST(ShapesGeneratorTest, OptionsAndNamesAreChecked) {
  for (const ShapesOptions& options : {ShapesOptions{.min_size = 8}, ShapesOptions{.min_size = 65},
                                       ShapesOptions{.max_size = 5000}, ShapesOptions{.jpeg_quality = 0}}) {
    EXPECT_EQ(ShapesGenerator::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  }
  for (const auto& splits : {std::vector<ShapesSplit>(std::begin(kTraining), std::end(kTraining)),
                             std::vector<ShapesSplit>(std::begin(kTests), std::end(kTests))}) {
    for (const ShapesSplit split : splits) EXPECT_EQ(*ParseShapesSplit(ShapesSplitName(split)), split);
  }
  EXPECT_EQ(ParseShapesSplit("train").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace vlm::data
