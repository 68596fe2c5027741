#include "spec/canonical.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "base/random.h"
#include "spec/render.h"
#include "spec/schema.h"
#include "spec/yaml_node.h"
#include "tests/unit/spec/job_text.h"

namespace vlm::spec {
namespace {

using testing::HasSubstr;

std::string With(const std::string& from, const std::string& to) {
  std::string text = FullJob();
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string DigestOf(const std::string& text, const std::string& stage) {
  const Job job = MustParse(text);
  const Stage* found = FindStage(job, stage);
  return found == nullptr ? "" : SemanticDigest(*found).Hex();
}

TEST(Canonical, EveryStageOfTheExamplesSurvivesARoundTrip) {
  for (const std::string& text :
       {ReadSource("examples/shapes/job.yaml"), ReadSource("examples/shapes/tiny.yaml"), FullJob()}) {
    for (const Stage& stage : MustParse(text).stages) {
      const std::string json = StageToJson(stage);
      const absl::StatusOr<Stage> back = StageFromJson(json);
      ASSERT_TRUE(back.ok()) << back.status().message();
      EXPECT_EQ(StageToJson(*back), json);
      EXPECT_EQ(SemanticDigest(*back), SemanticDigest(stage));
      EXPECT_EQ(back->shards, stage.shards);
    }
  }
}

TEST(Canonical, FieldsOfALargeStageSurviveARoundTrip) {
  const Job job =
      MustParse(With("      kind: sft",
                     "      kind: sft\n"
                     "      seed: 18446744073709\n"
                     "      train: {tokens: 11.2B, lr: {llm: 1e-5, vision: 2e-5, connector: 0.1, embedding: "
                     "0.3}, rules: [{pattern: \"*.norm*\", weight_decay: 0}, {pattern: \"a?\", lr: 1}], "
                     "trainable: [\"llm.blocks[-4:]\", connector, vision], precision: bf16, zero: 0, "
                     "overlap: true, recompute: true, clip: 0, optimizer: {beta2: 0.999}, schedule: {kind: "
                     "linear, final_ratio: 0}}\n"
                     "      checkpoint: {every: 7, keep_last: 1, keep_every: 21}"));
  const Stage& stage = *FindStage(job, "s");
  const Stage back = *StageFromJson(StageToJson(stage));
  const TrainSettings& train = back.training().train;
  EXPECT_EQ(back.seed, 18446744073709u);
  EXPECT_EQ(train.length.tokens, 11'200'000'000);
  EXPECT_EQ(train.lr.at("embedding"), 0.3);
  EXPECT_EQ(train.rules[0].weight_decay, 0.0);
  EXPECT_EQ(train.rules[0].lr, std::nullopt);
  EXPECT_EQ(train.trainable[0], "llm.blocks[-4:]");
  EXPECT_EQ(train.precision, Precision::kBf16);
  EXPECT_EQ(train.zero, 0);
  EXPECT_TRUE(train.overlap && train.recompute);
  EXPECT_EQ(train.schedule.kind, ScheduleKind::kLinear);
  EXPECT_EQ(back.training().checkpoint.keep_every, 21);
}

TEST(Canonical, JsonIsWhatTheFileSays) {
  EXPECT_EQ(StageToJson(*FindStage(MustParse(FullJob()), "i")),
            R"({"data":{"bad_pictures_max":0.01,"context":512,"image":{"patch":6,"size":24},"on_bad_picture":"fail",)"
            R"("sources":[{"from":{"split":"captions","stage":"g"},)"
            R"("name":"captions"}],"template":"chatml","tokenizer":{"stage":"t"}},"kind":"index","name":"i",)"
            R"("needs":["g","t"],"ranks":{"max":1,"min":1},"seed":0,"shards":8})");
}

// Digests and stored rows hold these bytes: the writer without a tree must keep them.
TEST(Canonical, JsonIsWrittenAsTheLibraryWritesIt) {
  std::vector<Stage> stages;
  for (const std::string& text : {ReadSource("examples/shapes/job.yaml"), FullJob()}) {
    for (const Stage& stage : MustParse(text).stages) stages.push_back(stage);
  }
  Stage odd;
  odd.name = "a \"quoted\" \\ name\twith \x01, \x7f and \xc3\xa9";
  odd.kind = StageKind::kSft;
  TrainingSettings settings;
  settings.train.lr = {{"vision", 1e-7}, {"llm", 0.1}, {"embedding", -0.0}, {"connector", 1e300}};
  settings.train.clip = 5e-324;
  settings.train.optimizer.beta1 = 1.0 / 3;
  odd.settings = settings;
  stages.push_back(odd);
  for (const Stage& stage : stages) {
    const CanonicalStage canonical = MakeCanonical(stage);
    EXPECT_EQ(nlohmann::json::parse(canonical.json).dump(), canonical.json);
    EXPECT_EQ(canonical.json, StageToJson(stage));
    EXPECT_EQ(canonical.semantic_digest, SemanticDigest(stage));
  }
}

TEST(Canonical, OtherJsonIsRefused) {
  const std::string json = StageToJson(*FindStage(MustParse(FullJob()), "i"));
  const auto message = [](const std::string& text) { return std::string(StageFromJson(text).status().message()); };
  const auto edited = [&](const std::string& from, const std::string& to) {
    std::string text = json;
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_THAT(message("{"), HasSubstr("not a JSON object"));
  EXPECT_THAT(message("[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(message(edited("\"seed\":0", "\"sead\":0")), HasSubstr("unknown key: 'sead'; did you mean 'seed'?"));
  EXPECT_THAT(message(edited("\"seed\":0,", "")), HasSubstr("missing key: 'seed'"));
  EXPECT_THAT(message(edited("512", "-5")), HasSubstr("stage.data.context: must be from 2 to 1048576, got -5"));
  EXPECT_THAT(message(edited("\"template\":\"chatml\",", "")), HasSubstr("canonical form"));
  EXPECT_THAT(message(edited("\"seed\":0", "\"seed\":0,\"seed\":0")), HasSubstr("canonical form"));
  EXPECT_THAT(message(json + " "), HasSubstr("canonical form"));
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  EXPECT_THAT(message(deep), HasSubstr("not a JSON object"));
  EXPECT_THAT(message(deep + "1" + std::string(100'000, '}')), HasSubstr("nested too deeply"));
}

TEST(Canonical, DigestIsStable) {
  EXPECT_EQ(DigestOf(FullJob(), "g"), "3aced51e22f80da51976729f8d6a6b585459c4caaa55319432bd256969301858");
  EXPECT_EQ(DigestOf(FullJob(), "t"), "0e522b16058dbbe5783558ed6dac1c46aa72266172c0025cbe945f5d048bb2d8");
  EXPECT_EQ(DigestOf(FullJob(), "i"), "8dd31cfd2a68394c431475e44b944afef476c3f7c5c77ad6a3e659678030ce60");
  EXPECT_EQ(DigestOf(FullJob(), "p"), "181142caccf776524d99eaf0f71a7f3c619aea592cf13a4f8289250c06723c98");
  EXPECT_EQ(DigestOf(FullJob(), "a"), "186d705c9dd2eb7574650c240d2b25fcfb8683d8c80f29920a394bb307753447");
  EXPECT_EQ(DigestOf(FullJob(), "s"), "dec3f469483c2bc08228552096ec498c5803a8da2f3d9f4efaef41442c89080a");
  EXPECT_EQ(DigestOf(FullJob(), "e"), "7cef669678fce2f7d733c620b7bd2a24389a9fff152acd9c25e2782ad31ab92e");
}

TEST(Canonical, DigestIgnoresWhatDoesNotChangeResults) {
  const std::string digest = DigestOf(FullJob(), "p");
  for (const char* train : {"zero: 0", "overlap: true", "recompute: true"}) {
    EXPECT_EQ(DigestOf(With("lr: 1e-3", std::string("lr: 1e-3, ") + train), "p"), digest) << train;
  }
  EXPECT_EQ(DigestOf(With("lr: 1e-3}",
                          "lr: 0.001}\n      checkpoint: {every: 3}\n      stop_if: {nonfinite_steps: 1}\n"
                          "      ranks: {min: 2, max: 9}\n      needs: [g]"),
                     "p"),
            digest);
  EXPECT_EQ(DigestOf(With("spec:\n", "spec:\n  retry: [{on: [crash], limit: 9}]\n  artifacts: /x\n"), "p"), digest);
}

TEST(Canonical, DigestCoversWhatChangesResults) {
  std::set<std::string> digests = {DigestOf(FullJob(), "p")};
  for (const char* train : {"micro_batch: 8", "global_batch: 32", "packing: true", "clip: 2", "label_smoothing: 0.1",
                            "precision: bf16", "optimizer: {beta1: 0.8}", "schedule: {warmup: 1}",
                            "trainable: [\"llm.blocks[1]\"]", "rules: [{pattern: a, lr: 1}]"}) {
    EXPECT_TRUE(digests.insert(DigestOf(With("lr: 1e-3", std::string("lr: 1e-3, ") + train), "p")).second) << train;
  }
  EXPECT_TRUE(digests.insert(DigestOf(With("spec:\n", "spec:\n  seed: 1\n"), "p")).second);
  EXPECT_TRUE(digests.insert(DigestOf(With("hidden: 32", "hidden: 64"), "p")).second);
  for (const char* data : {"", "on_bad_picture: drop\n        ", "bad_pictures_max: 0.5\n        "}) {
    EXPECT_TRUE(digests.insert(DigestOf(With("image: {size", std::string(data) + "image: {size"), "i")).second) << data;
  }
}

// Every field a stage of some kind can have reaches the canonical JSON: nothing is parsed and then lost.
TEST(Canonical, EveryFieldOfTheSchemaIsBound) {
  std::string text = With("lr: 1e-3}", "lr: 1e-3, rules: [{pattern: a, lr: 1, weight_decay: 1}]}");
  const size_t stop = text.find("mixture: [{source: captions}]");
  text.insert(stop + std::string("mixture: [{source: captions").size(), ", stop: 5");
  std::set<std::string> seen;
  const std::function<void(const nlohmann::json&, const std::string&)> walk = [&](const nlohmann::json& in,
                                                                                  const std::string& path) {
    seen.insert(path);
    if (in.is_array()) {
      for (const nlohmann::json& item : in) walk(item, path + "[]");
    } else if (in.is_object()) {
      for (const auto& [key, value] : in.items()) {
        const bool open = FindSchemaNode(path)->Child("{}") != nullptr;
        walk(value, open ? path + "{}" : path + "." + key);
      }
    }
  };
  for (const Stage& stage : MustParse(text).stages) walk(nlohmann::json::parse(StageToJson(stage)), "spec.stages[]");
  // Alternatives of which one job has one.
  seen.insert("spec.stages[].train.tokens");
  for (const Field& field : SchemaTable()) {
    if (!field.path.starts_with("spec.stages[]") || field.type == ValueType::kNotYet) continue;
    EXPECT_TRUE(seen.contains(std::string(field.path))) << field.path;
  }
}

void Shuffle(Rng* rng, YamlNode* node) {
  for (size_t i = node->entries.size(); i > 1; --i) std::swap(node->entries[i - 1], node->entries[rng->Below(i)]);
  for (YamlEntry& entry : node->entries) Shuffle(rng, &entry.value);
  for (YamlNode& item : node->items) Shuffle(rng, &item);
}

TEST(Canonical, OrderOfKeysDoesNotMatter) {
  const std::string text = ReadSource("examples/shapes/job.yaml");
  const Job job = MustParse(text);
  Diagnostics diagnostics;
  const std::optional<YamlNode> root = ReadYaml(text, "f", &diagnostics);
  ASSERT_TRUE(root.has_value());
  for (uint64_t seed = 0; seed < 30; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(RngKey{seed});
    YamlNode shuffled = *root;
    Shuffle(&rng, &shuffled);
    const Job other = MustParse(RenderYaml(shuffled));
    ASSERT_EQ(other.stages.size(), job.stages.size());
    for (size_t i = 0; i < job.stages.size(); ++i) {
      EXPECT_EQ(StageToJson(other.stages[i]), StageToJson(job.stages[i]));
      EXPECT_EQ(SemanticDigest(other.stages[i]), SemanticDigest(job.stages[i]));
    }
  }
}

}  // namespace
}  // namespace vlm::spec
