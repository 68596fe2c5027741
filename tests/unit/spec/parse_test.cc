#include "spec/parse.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/unit/spec/job_text.h"

namespace vlm::spec {
namespace {

TEST(Parse, SmallestJobGetsDefaults) {
  const Job job = MustParse(Head());
  EXPECT_EQ(job.name, "a");
  EXPECT_EQ(job.seed, 0u);
  EXPECT_EQ(job.ranks.max, 1);
  EXPECT_EQ(job.gpu, std::nullopt);
  EXPECT_EQ(job.artifacts, "");
  EXPECT_EQ(job.no_progress_restarts_max, 6);
  ASSERT_EQ(job.retry.size(), 12u);
  EXPECT_EQ(job.retry.at(FailureClass::kWorkerLost).limit, std::nullopt);
  EXPECT_EQ(job.retry.at(FailureClass::kCrash).limit, 3);
  EXPECT_EQ(job.retry.at(FailureClass::kHang).backoff_max, absl::Minutes(1));
  EXPECT_EQ(job.retry.at(FailureClass::kUserError).limit, 0);
  ASSERT_EQ(job.stages.size(), 1u);
  EXPECT_EQ(job.stages[0].generate().shard_samples, 500);
  EXPECT_EQ(job.stages[0].generate().image.max_size, 24);
}

TEST(Parse, JobFieldsAreHonoured) {
  const Job job = MustParse(
      "metadata: {name: ghost-1.5b, labels: {team: mm, year: 2026}}\n"
      "spec:\n"
      "  seed: 7\n"
      "  ranks: {min: 2, max: 4}\n"
      "  resources: {gpu: 1}\n"
      "  artifacts: file:///srv/vlm\n"
      "  retry: [{on: [crash, hang], limit: 7, backoff: {base: 5s, factor: 2, max: 5m}}, {on: [hang], limit: "
      "unlimited}]\n"
      "  stop_if: {no_progress_restarts: 3, nonfinite_steps: 9}\n"
      "  stages:\n"
      "    - {name: g, kind: generate, seed: 8, ranks: {min: 1}, generate: {shard_samples: 300, splits: "
      "[{name: captions, samples: 1K}, {name: questions, samples: 1}]}}\n");
  EXPECT_EQ(job.labels.at("year"), "2026");
  EXPECT_EQ(job.gpu, 1);
  EXPECT_EQ(job.artifacts, "/srv/vlm");
  EXPECT_EQ(job.ranks.min, 2);
  EXPECT_EQ(job.retry.at(FailureClass::kCrash).limit, 7);
  EXPECT_EQ(job.retry.at(FailureClass::kCrash).backoff_base, absl::Seconds(5));
  EXPECT_EQ(job.retry.at(FailureClass::kHang).limit, std::nullopt);
  EXPECT_EQ(job.retry.at(FailureClass::kStorage).limit, 3);
  EXPECT_EQ(job.stages[0].seed, 8u);
  EXPECT_EQ(job.stages[0].ranks.min, 1);
  EXPECT_EQ(job.stages[0].ranks.max, 1);
  EXPECT_EQ(job.stages[0].shards, 5u);  // 4 of captions, 1 of questions
}

TEST(Parse, FullJobIsTyped) {
  const Job job = MustParse(FullJob());
  std::vector<std::string> names;
  for (const Stage& stage : job.stages) names.push_back(stage.name);
  EXPECT_EQ(names, (std::vector<std::string>{"g", "t", "i", "p-index", "p", "a", "s", "e"}));
  const TrainingSettings& pretrain = FindStage(job, "p")->training();
  EXPECT_EQ(pretrain.model.text->kv_heads, 4);
  EXPECT_EQ(pretrain.train.length.steps, 10);
  EXPECT_EQ(pretrain.train.lr, (std::map<std::string, double>{{"llm", 1e-3}, {"embedding", 1e-3}}));
  EXPECT_EQ(pretrain.train.trainable, std::vector<std::string>{"llm"});
  EXPECT_EQ(pretrain.checkpoint.every, 500);
  EXPECT_EQ(pretrain.nonfinite_steps_max, 20);
  const TrainingSettings& sft = FindStage(job, "s")->training();
  EXPECT_EQ(sft.train.length.epochs, 1.0);
  EXPECT_EQ(sft.model.from_stage, "a");
  EXPECT_EQ(sft.train.lr.size(), 4u);
  EXPECT_EQ(FindStage(job, "e")->evaluate().tasks[0].targets.at("color"), 0.9);
  EXPECT_EQ(FindStage(job, "e")->shards, 8u);
  EXPECT_EQ(FindStage(job, "nothing"), nullptr);
}

TEST(Parse, NeedsAreImpliedByReferences) {
  const Job job = MustParse(FullJob());
  EXPECT_EQ(FindStage(job, "g")->needs, std::vector<std::string>{});
  EXPECT_EQ(FindStage(job, "i")->needs, (std::vector<std::string>{"g", "t"}));
  EXPECT_EQ(FindStage(job, "a")->needs, (std::vector<std::string>{"i", "p"}));
  EXPECT_EQ(FindStage(job, "e")->needs, (std::vector<std::string>{"i", "s"}));
  EXPECT_EQ(Ancestors(job, "p"), (std::vector<std::string>{"g", "t", "p-index"}));
  EXPECT_EQ(Ancestors(job, "g"), std::vector<std::string>{});
}

TEST(Parse, AnIndexIsInsertedForPlainSources) {
  const Job job = MustParse(Head() +
                            "    - {name: t, kind: tokenizer, data: {text: [corpus/*.txt]}}\n"
                            "    - {name: p, kind: pretrain, model: {text: {hidden: 32, layers: 1, heads: 4, "
                            "intermediate: 8, context: 64}}, data: {mixture: [{source: a/*.jsonl, weight: 2}, "
                            "{source: {stage: g, split: captions}}]}}\n"
                            "    - {name: a, kind: align, model: {llm: {from: {stage: p}}, vision: {hidden: 8, layers: "
                            "1, heads: 2, intermediate: 8, image_size: 12, patch: 4}}, data: {mixture: "
                            "[{source: {stage: g, split: captions}}], on_bad_picture: drop, bad_pictures_max: 0.5}}\n");
  const IndexSettings& text = FindStage(job, "p-index")->index();
  EXPECT_EQ(text.on_bad_picture, BadPicturePolicy::kFail);
  EXPECT_EQ(text.bad_pictures_max, 0.01);
  EXPECT_EQ(text.sources[0].name, "source-1");
  EXPECT_EQ(text.sources[0].from.glob, "a/*.jsonl");
  EXPECT_EQ(text.sources[1].from.split, "captions");
  EXPECT_EQ(text.tokenizer_stage, "t");
  EXPECT_EQ(text.chat_template, ChatTemplate::kPlain);
  EXPECT_FALSE(text.image.has_value());
  EXPECT_EQ(text.context, 64);
  EXPECT_EQ(FindStage(job, "p")->training().data.mixture[0].source, "source-1");
  EXPECT_EQ(FindStage(job, "p")->training().data.mixture[0].weight, 2);
  const IndexSettings& pictures = FindStage(job, "a-index")->index();
  EXPECT_EQ(pictures.chat_template, ChatTemplate::kChatml);
  EXPECT_EQ(pictures.on_bad_picture, BadPicturePolicy::kDrop);
  EXPECT_EQ(pictures.bad_pictures_max, 0.5);
  EXPECT_EQ(pictures.image->size, 12);
  EXPECT_EQ(pictures.image->patch, 4);
  EXPECT_EQ(pictures.context, 64);  // through the text model of the pretrain stage
}

class BadFile : public testing::TestWithParam<BadJob> {};

TEST_P(BadFile, IsRefusedWithPlaceAndRemedy) { EXPECT_EQ(Errors(GetParam().text), GetParam().said); }

std::vector<BadJob> BadCases() {
  return {
      {"UnknownKey", Full("steps: 10", "stpes: 10"),
       "f:16:15: spec.stages[p].train: unknown key: 'stpes'; did you mean 'steps'?\n"},
      {"KeyInAnotherPlace", Full("      train: {steps: 10, lr: 1e-3}", "      lr: 1e-3"),
       "f:16:7: spec.stages[p]: unknown key: 'lr'; it stands under spec.stages[].train\n"},
      {"KeyOfAnotherKind", Full("      train: {steps: 10, lr: 1e-3}", "      tokenizer: {}"),
       "f:16:7: spec.stages[p]: 'tokenizer' does not belong to a stage of kind 'pretrain'; it is for tokenizer\n"},
      {"DuplicateKey", Full("steps: 10", "steps: 10, steps: 11"),
       "f:16:26: duplicate key: 'steps'; it stands already in line 16\n"},
      {"MergeKey", Full("steps: 10", "<<: {}, steps: 10"),
       "f:16:15: spec.stages[p].train: merge keys are not allowed; use extends\n"},
      {"WrongScalarType", Full("steps: 10", "steps: ten"),
       "f:16:22: spec.stages[p].train.steps: expected an integer, or a number with K, M, B or T, got 'ten'\n"},
      {"QuotedNumber", Full("lr: 1e-3", "lr: \"1e-3\""),
       "f:16:30: spec.stages[p].train.lr: expected a number or a map of numbers, got \"1e-3\"\n"},
      {"YesIsNoBoolean", Full("steps: 10", "packing: yes"),
       "f:16:24: spec.stages[p].train.packing: expected true or false, got 'yes'; write true\n"},
      {"MapExpected", Full("train: {steps: 10, lr: 1e-3}", "train: [1]"),
       "f:16:14: spec.stages[p].train: expected a map, got a list\n"},
      {"NothingGiven", Full("train: {steps: 10, lr: 1e-3}", "train:"),
       "f:16:7: spec.stages[p].train: expected a map, got nothing\n"},
      {"OutOfRange", Full("lr: 1e-3", "label_smoothing: 1.5"),
       "f:16:43: spec.stages[p].train.label_smoothing: must be from 0 to 0.999, got 1.5\n"},
      {"UnknownChoice", Full("lr: 1e-3", "precision: bf61"),
       "f:16:37: spec.stages[p].train.precision: unknown value: 'bf61'; did you mean 'bf16'?\n"},
      {"NumberOutsideItsChoices", Full("lr: 1e-3", "zero: 4"),
       "f:16:32: spec.stages[p].train.zero: unknown value: '4'; supported: 0, 1, 2, 3\n"},
      {"ChoiceOfALaterVersion", Full("lr: 1e-3", "precision: fp16"),
       "f:16:37: spec.stages[p].train.precision: not supported yet: 'fp16'; supported: fp32, bf16\n"},
      {"KindOfALaterVersion", Head() + "    - {name: r, kind: grpo}\n",
       "f:5:23: spec.stages[r].kind: not supported yet: 'grpo'; supported: generate, index, tokenizer, pretrain, "
       "align, sft, evaluate\n"},
      {"FieldsOfALaterVersion",
       Replaced(Full("lr: 1e-3", "adapter: {rank: 16}"), "spec:\n", "spec:\n  priority: high\n"),
       "f:3:3: spec: 'priority' is not supported yet\n"
       "f:17:26: spec.stages[p].train: 'adapter' is not supported yet\n"},
      {"ConnectorOfALaterVersion",
       Full("        llm: {from", "        connector: {kind: perceiver}\n        llm: {from"),
       "f:20:27: spec.stages[a].model.connector.kind: not supported yet: 'perceiver'; supported: mlp\n"},
      {"PathWhereAStageMustStand", Full("llm: {from: {stage: p}}", "llm: {from: hub/qwen}"),
       "f:20:21: spec.stages[a].model.llm.from: a path is not supported yet here: 'hub/qwen'; write {stage: NAME}\n"},
      {"MissingKey", Full("hidden: 32, layers: 2", "layers: 2"),
       "f:14:21: spec.stages[p].model.text: missing key: 'hidden'; Width; a multiple of heads.\n"},
      {"MissingStage", Full("from: {stage: s}", "from: {stage: sf}"),
       "f:29:29: spec.stages[e].model.from.stage: no such stage: 'sf'; did you mean 's'?\n"},
      {"NeedsNothingKnown", Full("      kind: sft", "      kind: sft\n      needs: [warmup]"),
       "f:25:15: spec.stages[s].needs[0]: no such stage: 'warmup'; stages: a, e, g, i, p, p-index, s, t\n"},
      {"KindDoesNotFit", Full("from: {stage: s}", "from: {stage: t}"),
       "f:29:29: spec.stages[e].model.from.stage: stage 't' is of kind 'tokenizer' and does not fit here; name a "
       "stage of kind align or sft\n"},
      {"NeedsItself", Full("      kind: sft", "      kind: sft\n      needs: [s]"),
       "f:25:15: spec.stages[s].needs[0]: a stage cannot need itself: 's'\n"},
      {"Cycle", Full("      kind: index", "      kind: index\n      needs: [s]"),
       "f:8:15: spec.stages[i].needs[0]: stages need each other in a cycle: i -> s -> i; remove one of these needs\n"
       "f:8:15: spec.stages[i].needs[0]: stages need each other in a cycle: i -> s -> a -> i; remove one of these "
       "needs\n"},
      {"DuplicateStageName", Full("name: e", "name: s"),
       "f:27:13: spec.stages[s].name: duplicate stage name: 's'; it stands already in line 23\n"},
      {"StageNameInCapitals", Full("{name: g,", "{name: G,"),
       "f:4:14: spec.stages[G].name: not a stage name: 'G'; write it in lower-case letters\n"
       "f:5:56: spec.stages[t].data.text[0].stage: no such stage: 'g'; did you mean 'G'?\n"
       "f:9:50: spec.stages[i].data.sources[captions].from.stage: no such stage: 'g'; did you mean 'G'?\n"},
      {"JobName", Full("metadata: {name: a}", "metadata: {name: My_Job}"),
       "f:1:18: metadata.name: not a job name: 'My_Job'; up to 63 lower-case letters, digits, '-' and '.'\n"},
      {"JobNameWithASlash", Full("metadata: {name: a}", "metadata: {name: a/b}"),
       "f:1:18: metadata.name: not a name: 'a/b'; up to 63 letters, digits, '-', '_' and '.'\n"},
      {"RanksUpsideDown", Full("spec:\n", "spec:\n  ranks: {min: 4, max: 2}\n"),
       "f:3:16: spec.ranks.min: impossible number of ranks: min 4 is above max 2\n"},
      {"RanksOfAStage", Full("      kind: sft", "      kind: sft\n      ranks: {min: 3, max: 2}"),
       "f:25:20: spec.stages[s].ranks.min: impossible number of ranks: min 3 is above max 2\n"},
      {"NoRank", Full("spec:\n", "spec:\n  ranks: {min: 0}\n"),
       "f:3:16: spec.ranks.min: must be from 1 to 1024, got 0\n"},
      {"ObjectStore", Full("spec:\n", "spec:\n  artifacts: s3://bucket\n"),
       "f:3:14: spec.artifacts: not supported yet: 's3://bucket'; only local files and file:// are\n"},
      {"RelativeArtifacts", Full("spec:\n", "spec:\n  artifacts: runs\n"),
       "f:3:14: spec.artifacts: not an absolute folder: 'runs'; write /path or file:///path\n"},
      {"EscapingPath", Full("corpus/*.jsonl", "../*.jsonl"),
       "f:15:33: spec.stages[p-index].data.sources[source-1].from: a path must not contain '..': '../*.jsonl'\n"},
      {"UnknownSplit", Full("splits: [captions]", "splits: [caption]"),
       "f:5:68: spec.stages[t].data.text[0].splits[0]: stage 'g' has no split 'caption'; did you mean 'captions'?\n"},
      {"UnknownSource", Full("mixture: [{source: captions}]", "mixture: [{source: questions}]"),
       "f:22:52: spec.stages[a].data.mixture[0].source: index stage 'i' has no source 'questions'; it has: captions\n"},
      {"UnknownTaskSource", Full("source: captions, targets", "source: test, targets"),
       "f:31:38: spec.stages[e].tasks[scenes].source: index stage 'i' has no source 'test'; it has: captions\n"},
      {"TwoLengths", Full("steps: 10", "steps: 10, epochs: 2"),
       "f:16:14: spec.stages[p].train: only one of steps, epochs and tokens may stand\n"},
      {"MicroBatch", Full("steps: 10", "steps: 10, global_batch: 4, micro_batch: 8"),
       "f:16:56: spec.stages[p].train.micro_batch: above global_batch 4: 8\n"},
      {"Warmup", Full("steps: 10", "steps: 10, schedule: {warmup: 11 steps}"),
       "f:16:45: spec.stages[p].train.schedule.warmup: longer than the training of 10 steps: 11\n"},
      {"OddHeads", Full("heads: 4, intermediate: 64}}", "heads: 5, intermediate: 64}}"),
       "f:14:30: spec.stages[p].model.text.hidden: hidden / heads must be a whole even number: 32 / 5\n"},
      {"KvHeads", Full("heads: 4, intermediate: 64}}", "heads: 4, kv_heads: 3, intermediate: 64}}"),
       "f:14:65: spec.stages[p].model.text.kv_heads: does not divide heads 4: 3\n"},
      {"PatchDoesNotDivide", Full("image_size: 24, patch: 6", "image_size: 24, patch: 7"),
       "f:21:81: spec.stages[a].model.vision.image_size: not a multiple of patch 7: 24\n"
       "f:22:21: spec.stages[a].data.index: the index's pictures of 24 pixels in patches of 6 differ from the "
       "model's: 24 and 7\n"
       "f:26:21: spec.stages[s].data.index: the index's pictures of 24 pixels in patches of 6 differ from the "
       "model's: 24 and 7\n"
       "f:30:21: spec.stages[e].data.index: the index's pictures of 24 pixels in patches of 6 differ from the "
       "model's: 24 and 7\n"},
      {"Selector", Full("lr: 1e-3", "trainable: [llm.block]"),
       "f:16:38: spec.stages[p].train.trainable[0]: names no part of the model: 'llm.block'; write all, llm, "
       "vision, connector, or blocks like llm.blocks[-4:]\n"},
      {"GroupWithoutRate", Full("      kind: sft", "      kind: sft\n      train: {lr: {llm: 1e-4, vision: 1e-4}}"),
       "f:25:19: spec.stages[s].train.lr: missing learning rate of a group that trains: 'connector'; add connector: "
       "NUMBER\n"},
      {"SpecialTokens", Full("[captions]}]}}", "[captions]}]}, tokenizer: {special: [\"<|endoftext|>\"]}}"),
       "f:9:9: spec.stages[i].data.template: template chatml needs the special token '<|im_start|>', which "
       "tokenizer stage 't' does not reserve; add it to tokenizer.special\n"
       "f:9:9: spec.stages[i].data.template: template chatml needs the special token '<|im_end|>', which tokenizer "
       "stage 't' does not reserve; add it to tokenizer.special\n"
       "f:11:16: spec.stages[i].data.image: a picture needs the special token '<|image|>', which tokenizer stage "
       "'t' does not reserve; add it to tokenizer.special\n"},
      {"SmallVocabulary", Full("[captions]}]}}", "[captions]}]}, tokenizer: {vocab_size: 258}}"),
       "f:5:106: spec.stages[t].tokenizer.vocab_size: too small for 256 bytes and 4 special tokens: 258\n"},
      {"TwoTokenizers", FullJob() + "    - {name: t2, kind: tokenizer, data: {text: [a.txt]}}\n",
       "f:15:13: spec.stages[p].data: missing key: 'index'; none can be inserted, for the job has 2 tokenizer "
       "stages; write index: {stage: NAME}, or tokenizer: {stage: NAME}\n"
       "f:15:13: spec.stages[p].data: missing key: 'index'; Whose index to read. Left out of a training stage whose "
       "mixture names paths or {stage, split}: an index stage is inserted.\n"
       "f:15:33: spec.stages[p].data.mixture[0].source: not a name: 'corpus/*.jsonl'; up to 63 letters, digits, "
       "'-', '_' and '.'\n"},
      {"NotComposed", "extends: [base.yaml]\n" + FullJob(),
       "f:1:1: extends: the file is not composed yet; vlmctl submit and vlmctl render compose files\n"},
      {"OtherVersion", "apiVersion: vlm/v2\n" + FullJob(),
       "f:1:13: apiVersion: unknown value: 'vlm/v2'; did you mean 'vlm/v1'?\n"},
      {"RetryClass", Full("spec:\n", "spec:\n  retry: [{on: [preempted], limit: 1}]\n"),
       "f:3:17: spec.retry[0].on[0]: not supported yet: 'preempted'; supported: out_of_memory, numeric, bad_data, "
       "damaged_checkpoint, incompatible, user_error, storage, crash, worker_lost, hang, start_timeout, peer_lost\n"},
      {"KeepEvery", Full("lr: 1e-3}", "lr: 1e-3}\n      checkpoint: {every: 3 steps, keep_every: 10 steps}"),
       "f:17:48: spec.stages[p].checkpoint.keep_every: not a multiple of every 3: 10\n"},
      {"ImageBelowWhatIsDrawn", Full("samples: 10}]", "samples: 10}], image: {min_size: 8, max_size: 2000}"),
       "f:4:103: spec.stages[g].generate.image.min_size: must be from 16 to 1024, got 8\n"
       "f:4:116: spec.stages[g].generate.image.max_size: must be from 16 to 1024, got 2000\n"},
      {"TargetOfAnUnknownKind",
       Replaced(
           Replaced(Replaced(Full("targets: {color: 0.9}", "targets: {color: 0.9, colour: 0.9, size: 0.5}"),
                             "{name: captions, samples: 10}",
                             "{name: captions, samples: 10}, {name: questions, samples: 4}"),
                    "sources: [{name: captions, from: {stage: g, split: captions}}]",
                    "sources: [{name: captions, from: {stage: g, split: captions}}, {name: asked, from: {stage: g, "
                    "split: questions}}]"),
           "{name: scenes, source: captions,", "{name: scenes, source: asked,"),
       "f:31:75: spec.stages[e].tasks[scenes].targets.colour: split 'questions' has no question of kind 'colour'; did "
       "you "
       "mean 'color'?\n"
       "f:31:86: spec.stages[e].tasks[scenes].targets.size: split 'questions' has no question of kind 'size'; it has: "
       "color, shape, position, count\n"},
      {"ImageRange", Full("samples: 10}]", "samples: 10}], image: {min_size: 30, max_size: 20}"),
       "f:4:103: spec.stages[g].generate.image.min_size: min_size 30 is above max_size 20\n"},
  };
}

INSTANTIATE_TEST_SUITE_P(Table, BadFile, testing::ValuesIn(BadCases()), NameOf);

TEST(Parse, EveryErrorIsReportedAtOnce) {
  EXPECT_EQ(Errors("metadata: {}\n"
                   "spec:\n"
                   "  sed: 1\n"
                   "  stages:\n"
                   "    - {name: x, kind: generte}\n"
                   "    - {name: t, kind: tokenizer, data: {text: [{stage: y, splits: [a]}]}, tokenizer: "
                   "{vocab_size: 1}}\n"
                   "    - {name: x, kind: tokenizer, data: {text: [a.txt]}}\n"),
            "f:1:11: metadata: missing key: 'name'; Name of the job, up to 63 lower-case letters, digits, '-' and '.'; "
            "need not be unique.\n"
            "f:3:3: spec: unknown key: 'sed'; did you mean 'seed'?\n"
            "f:5:23: spec.stages[x].kind: unknown value: 'generte'; did you mean 'generate'?\n"
            "f:6:56: spec.stages[t].data.text[0].stage: no such stage: 'y'; did you mean 't'?\n"
            "f:6:99: spec.stages[t].tokenizer.vocab_size: must be from 256 to 1048576, got 1\n"
            "f:7:14: spec.stages[x].name: duplicate stage name: 'x'; it stands already in line 5\n");
}

TEST(Parse, ExamplesAreValid) {
  for (const char* path : {"examples/shapes/job.yaml", "examples/shapes/tiny.yaml"}) {
    const Job job = MustParse(ReadSource(path));
    EXPECT_EQ(job.stages.size(), 8u) << path;
    EXPECT_EQ(job.ranks.max, 2) << path;
  }
}

}  // namespace
}  // namespace vlm::spec
