// Rules between the fields of a job: one job each that breaks it, and what is said. Places are parse_test.cc's matter.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/utf8.h"
#include "tests/unit/spec/job_text.h"

namespace vlm::spec {
namespace {

using testing::EndsWith;
using testing::HasSubstr;

// Errors() without "file:line:column: " before each line.
std::string Said(const std::string& text) {
  std::string out;
  const std::string errors = Errors(text);
  for (size_t begin = 0; begin < errors.size();) {
    const size_t end = errors.find('\n', begin) + 1;
    out += errors.substr(errors.find(": ", begin) + 2, end - errors.find(": ", begin) - 2);
    begin = end;
  }
  return out;
}

class BrokenRule : public testing::TestWithParam<BadJob> {};

TEST_P(BrokenRule, IsNamed) { EXPECT_EQ(Said(GetParam().text), GetParam().said); }

const char kReaders[] = "ase";  // the stages of FullJob() that read index i

std::string ForEveryReader(const std::string& said) {
  std::string out;
  for (const char* stage = kReaders; *stage != 0; ++stage) {
    out += std::string("spec.stages[") + *stage + "].data.index: " + said + "\n";
  }
  return out;
}

std::vector<BadJob> Names() {
  const std::string captions = "split: captions}}]";
  return {
      {"SplitTwice", Full("samples: 10}]", "samples: 10}, {name: captions, samples: 1}]"),
       "spec.stages[g].generate.splits[captions].name: duplicate: 'captions'\n"},
      {"SpecialTokenTwice",
       Full("[captions]}]}}",
            "[captions]}]}, tokenizer: {special: [\"<|endoftext|>\", \"<|im_start|>\", \"<|im_end|>\", \"<|image|>\", "
            "\"<|im_end|>\"]}}"),
       "spec.stages[t].tokenizer.special[4]: duplicate: '<|im_end|>'\n"},
      {"SourceTwice", Full(captions, "split: captions}}, {name: captions, from: more/*.jsonl}]"),
       "spec.stages[i].data.sources[captions].name: duplicate: 'captions'\n"},
      {"MixtureTwice", Full("mixture: [{source: captions}]", "mixture: [{source: captions}, {source: captions}]"),
       "spec.stages[a].data.mixture[1].source: duplicate: 'captions'\n"},
      {"TaskTwice", Full("targets: {color: 0.9}}]", "targets: {color: 0.9}}, {name: scenes, source: captions}]"),
       "spec.stages[e].tasks[scenes].name: duplicate: 'scenes'\n"},
      {"LabelThatIsNoName", Full("{name: a}", "{name: a, labels: {\"a b\": x}}"),
       "metadata.labels: not a name: 'a b'; up to 63 letters, digits, '-', '_' and '.'\n"},
      // A key that could be read as a path is not looked for below.
      {"TargetOfAKindWithADash",
       Replaced(Replaced(Replaced(Full("{color: 0.9}", "{col-or: 0.9}"), "samples: 10}",
                                  "samples: 10}, {name: questions, samples: 4}"),
                         captions, "split: captions}}, {name: asked, from: {stage: g, split: questions}}]"),
                "source: captions, targets", "source: asked, targets"),
       "spec.stages[e].tasks[scenes].targets: split 'questions' has no question of kind 'col-or'; did you mean "
       "'color'?\n"},
      {"NameOfTheInsertedIndex",
       FullJob() + "    - {name: p-index, kind: index, data: {sources: [{name: x, from: x/*.jsonl}], tokenizer: "
                   "{stage: t}}}\n",
       "spec.stages[p].data: no index can be inserted: a stage is named 'p-index' already; name it in data.index: "
       "{stage: NAME}\n"
       "spec.stages[p].data: missing key: 'index'; Whose index to read. Left out of a training stage whose mixture "
       "names paths or {stage, split}: an index stage is inserted.\n"
       "spec.stages[p].data.mixture[0].source: not a name: 'corpus/*.jsonl'; up to 63 letters, digits, '-', '_' and "
       "'.'\n"},
      {"ArtifactsOfAHost", Full("spec:\n", "spec:\n  artifacts: file://host/runs\n"),
       "spec.artifacts: not an address of a local folder: 'file://host/runs'; write file:///path\n"},
  };
}
INSTANTIATE_TEST_SUITE_P(Names, BrokenRule, testing::ValuesIn(Names()), NameOf);

std::vector<BadJob> Sizes() {
  return {
      {"TooManyShards",
       Full("generate: {splits: [{name: captions, samples: 10}]",
            "generate: {shard_samples: 1, splits: [{name: captions, samples: 65537}]"),
       "spec.stages[g].generate.shard_samples: too many shards: 65537, the limit is 65536; make shards larger\n"},
      {"OddWidthOfAHead", Full("hidden: 32, layers: 2", "hidden: 36, layers: 2"),
       "spec.stages[p].model.text.hidden: hidden / heads must be a whole even number: 36 / 4\n"},
      {"HeadsOfTheEncoder", Full("hidden: 32, layers: 1", "hidden: 33, layers: 1"),
       "spec.stages[a].model.vision.hidden: not a multiple of heads 2: 33\n"},
      {"PicturesThatPatchesDoNotFill", Full("{size: 24, patch: 6}", "{size: 24, patch: 7}"),
       "spec.stages[i].data.image.size: not a multiple of patch 7: 24\n" +
           ForEveryReader("the index's pictures of 24 pixels in patches of 7 differ from the model's: 24 and 6")},
      {"PicturesOfAnotherPatch", Full("{size: 24, patch: 6}", "{size: 24, patch: 8}"),
       ForEveryReader("the index's pictures of 24 pixels in patches of 8 differ from the model's: 24 and 6")},
      {"PicturesOfAnotherSize", Full("{size: 24, patch: 6}", "{size: 30, patch: 6}"),
       ForEveryReader("the index's pictures of 30 pixels in patches of 6 differ from the model's: 24 and 6")},
      {"ContextAboveTheModels", Full("tokenizer: {stage: t}\n", "tokenizer: {stage: t}\n        context: 513\n"),
       ForEveryReader("the index's context of 513 tokens is above the model's: 512")},
      {"PicturesForATextModel",
       Full("data: {mixture: [{source: corpus/*.jsonl}]}", "data: {index: {stage: i}, mixture: [{source: captions}]}"),
       "spec.stages[p].data.index: a pretrain stage reads text only, and its index has pictures\n"},
      {"BlankPicturesOfNone",
       Replaced(Full("      model: {from: {stage: s}}\n      data: {index: {stage: i}}",
                     "      model: {from: {stage: s}}\n      data: {index: {stage: p-index}}"),
                "source: captions, targets: {color: 0.9}", "source: source-1, control: blank"),
       "spec.stages[e].tasks[scenes].control: a control with blank pictures needs an index with pictures\n"},
  };
}
INSTANTIATE_TEST_SUITE_P(Sizes, BrokenRule, testing::ValuesIn(Sizes()), NameOf);

std::vector<BadJob> Training() {
  return {
      {"RuleThatSetsNothing", Full("lr: 1e-3", "rules: [{pattern: \"*\", lr: 0}, {pattern: \"*\"}]"),
       "spec.stages[p].train.rules[1]: a rule must set lr or weight_decay\n"},
      {"PartOfAnotherKind", Full("lr: 1e-3", "trainable: [llm, connector]"),
       "spec.stages[p].train.trainable[1]: a pretrain stage has no such part: 'connector'\n"},
      {"AllOfATextModelWithoutItsRate", Full("lr: 1e-3", "trainable: [all], lr: {embedding: 1e-3}"),
       "spec.stages[p].train.lr: missing learning rate of a group that trains: 'llm'; add llm: NUMBER\n"},
      {"AllOfAPictureModelWithoutRates", Full("      kind: sft", "      kind: sft\n      train: {lr: {llm: 1e-4}}"),
       "spec.stages[s].train.lr: missing learning rate of a group that trains: 'connector'; add connector: NUMBER\n"
       "spec.stages[s].train.lr: missing learning rate of a group that trains: 'vision'; add vision: NUMBER\n"},
      {"ListOfRates", Full("lr: 1e-3", "lr: [1e-3]"),
       "spec.stages[p].train.lr: expected a number or a map of numbers, got a list\n"},
  };
}
INSTANTIATE_TEST_SUITE_P(Training, BrokenRule, testing::ValuesIn(Training()), NameOf);

std::vector<BadJob> Scalars() {
  const std::string name = "metadata: {name: a}";
  std::string letters;
  for (int i = 0; i < 64; ++i) letters += "\xc3\xa4";
  return {
      {"QuotedInteger", Full("spec:\n", "spec:\n  seed: \"7\"\n"), "spec.seed: expected an integer, got \"7\"\n"},
      {"QuotedLimit", Full("spec:\n", "spec:\n  retry: [{on: [hang], limit: \"5\"}]\n"),
       "spec.retry[0].limit: expected an integer or unlimited, got \"5\"\n"},
      {"WordsForRanks", Full("spec:\n", "spec:\n  ranks: {min: two, max: 1}\n"),
       "spec.ranks.min: expected an integer, got 'two'\n"},
      {"NotAboveItsBound", Full("intermediate: 64}}", "intermediate: 64, rope_theta: 0}}"),
       "spec.stages[p].model.text.rope_theta: must be above 0, got 0\n"},
      {"NotWithinItsBounds", Full("intermediate: 64}}", "intermediate: 64, rms_eps: 2}}"),
       "spec.stages[p].model.text.rms_eps: must be above 0, at most 1, got 2\n"},
      {"LongLabel", Full(name, "metadata: {name: a, labels: {k: " + letters + "}}"),
       "metadata.labels.k: the number of characters must be at most 63, got 64\n"},
      {"EmptyToken", Full("[captions]}]}}", "[captions]}]}, tokenizer: {special: [\"\"]}}"),
       "spec.stages[t].tokenizer.special[0]: the number of characters must be from 1 to 256, got 0\n"},
      {"EmptyPath", Full("from: {stage: g, split: captions}", "from: \"\""),
       "spec.stages[i].data.sources[captions].from: a path must not be empty\n"},
      {"LongPath", Full("from: {stage: g, split: captions}", "from: " + std::string(4097, 'x')),
       "spec.stages[i].data.sources[captions].from: the path is too long: 4097 bytes, the limit is 4096\n"},
  };
}
INSTANTIATE_TEST_SUITE_P(Scalars, BrokenRule, testing::ValuesIn(Scalars()), NameOf);

// Next to what the rules refuse.
TEST(Rules, WhatIsJustAllowedIsTaken) {
  std::string label;
  for (int i = 0; i < 63; ++i) label += "\xc3\xa4";
  const std::vector<std::string> good = {
      Full("generate: {splits: [{name: captions, samples: 10}]",
           "generate: {shard_samples: 1, splits: [{name: captions, samples: 65536}]"),
      Full("lr: 1e-3", "rules: [{pattern: \"*\", lr: 0}, {pattern: \"*\", weight_decay: 0}]"),
      Full("lr: 1e-3", "trainable: [all], lr: {llm: 1e-3}"),
      Full("lr: 1e-3", "trainable: [\"llm.blocks[-1:]\"]"),
      Full("tokenizer: {stage: t}\n", "tokenizer: {stage: t}\n        context: 512\n"),
      Full("targets: {color: 0.9}", "control: blank"),
      Full("metadata: {name: a}", "metadata: {name: a, labels: {k: " + label + "}}"),
      Full("from: {stage: g, split: captions}", "from: " + std::string(4096, 'x')),
      Full("spec:\n", "spec:\n  ranks: {min: 2, max: 2}\n"),
  };
  for (const std::string& text : good) EXPECT_EQ(Errors(text), "") << text;
}

TEST(Rules, BooleansAreTwoWordsAndTheOthersAreTranslated) {
  const auto packing = [](const std::string& value) { return Full("lr: 1e-3", "packing: " + value); };
  EXPECT_TRUE(FindStage(MustParse(packing("true")), "p")->training().train.packing);
  EXPECT_FALSE(FindStage(MustParse(packing("false")), "p")->training().train.packing);
  for (const char* word : {"yes", "on", "True", "1", "\"true\"", "ON"}) {
    EXPECT_THAT(Said(packing(word)), EndsWith("; write true\n")) << word;
  }
  for (const char* word : {"no", "off", "FALSE", "0", "\"false\""}) {
    EXPECT_THAT(Said(packing(word)), EndsWith("; write false\n")) << word;
  }
  EXPECT_EQ(Said(packing("maybe")), "spec.stages[p].train.packing: expected true or false, got 'maybe'\n");
}

// A message travels in fields of protobuf that must be UTF-8.
TEST(Rules, ValuesAreShownCutBetweenCharacters) {
  for (const std::string& value : {"x" + std::string(20, 'y'), std::string("x")}) {
    std::string letters = value;
    while (letters.size() < 200) letters += "\xc3\xa4";
    for (const std::string& text : {Full("spec:\n", "spec:\n  seed: " + letters + "\n"),
                                    Full("{name: a}", "{name: a, labels: {" + letters + ": x}}")}) {
      const std::string errors = Errors(text);
      EXPECT_THAT(errors, HasSubstr("x"));
      EXPECT_EQ(CutUtf8(errors, errors.size()), errors);
    }
  }
}

TEST(Rules, TheTokenizerOfAnInsertedIndexMayBeNamed) {
  const Job job = MustParse(Full("data: {mixture: [{source: corpus/*.jsonl}]}",
                                 "data: {tokenizer: {stage: t2}, template: chatml, mixture: [{source: c/*.jsonl}]}") +
                            "    - {name: t2, kind: tokenizer, data: {text: [a.txt]}}\n");
  const IndexSettings& index = FindStage(job, "p-index")->index();
  EXPECT_EQ(index.tokenizer_stage, "t2");
  EXPECT_EQ(index.chat_template, ChatTemplate::kChatml);
}

TEST(Rules, SourcesOfOneSplitGetNamesOfTheirOwn) {
  const Job job = MustParse(
      Full("mixture: [{source: corpus/*.jsonl}]",
           "mixture: [{source: {stage: g, split: captions}}, {source: {stage: h, split: captions}, weight: 3}]") +
      "    - {name: h, kind: generate, generate: {splits: [{name: captions, samples: 4}]}}\n");
  const IndexSettings& index = FindStage(job, "p-index")->index();
  ASSERT_EQ(index.sources.size(), 2u);
  EXPECT_EQ(index.sources[0].name, "captions");
  EXPECT_EQ(index.sources[0].from.stage, "g");
  EXPECT_EQ(index.sources[1].name, "captions-2");
  EXPECT_EQ(index.sources[1].from.stage, "h");
  const auto& mixture = FindStage(job, "p")->training().data.mixture;
  EXPECT_EQ(mixture[1].source, "captions-2");
  EXPECT_EQ(mixture[1].weight, 3);
}

}  // namespace
}  // namespace vlm::spec
