#include "spec/stage_json.h"

#include <algorithm>
#include <utility>

#include "spec/bind.h"
#include "spec/canonical_writer.h"
#include "spec/schema.h"

namespace vlm::spec {
namespace {

// Same body for both directions: with a CanonicalWriter the fields are read, with a JsonReader they are set.
template <typename A>
void Fields(A& a, Ranks& v) {
  a("min", v.min);
  a("max", v.max);
}
template <typename A>
void Fields(A& a, GeneratedPicture& v) {
  a("min_size", v.min_size);
  a("max_size", v.max_size);
  a("format", v.format);
}
template <typename A>
void Fields(A& a, GenerateSplit& v) {
  a("name", v.name);
  a("samples", v.samples);
}
template <typename A>
void Fields(A& a, GenerateSettings& v) {
  a.Object("generate", true, [&](A& generate) {
    generate("generator", v.generator);
    generate("shard_samples", v.shard_samples);
    generate("splits", v.splits);
    generate("image", v.image);
  });
}
template <typename A>
void Fields(A& a, DataRef& v) {
  a("stage", v.stage);
  a("split", v.split);
}
template <typename A>
void Fields(A& a, TextRef& v) {
  a("stage", v.stage);
  a("splits", v.splits);
}
template <typename A>
void Fields(A& a, TokenizerSettings& v) {
  a.Object("data", true, [&](A& data) { data("text", v.text); });
  a.Object("tokenizer", true, [&](A& tokenizer) {
    tokenizer("vocab_size", v.vocab_size);
    tokenizer("pattern", v.pattern);
    tokenizer("min_frequency", v.min_frequency);
    tokenizer("special", v.special);
  });
}
template <typename A>
void Fields(A& a, ImageInput& v) {
  a("size", v.size);
  a("patch", v.patch);
}
template <typename A>
void Fields(A& a, IndexSource& v) {
  a("name", v.name);
  a("from", v.from);
}
template <typename A>
void Fields(A& a, IndexSettings& v) {
  a.Object("data", true, [&](A& data) {
    data("sources", v.sources);
    data.Reference("tokenizer", v.tokenizer_stage);
    data("template", v.chat_template);
    data("image", v.image);
    data("context", v.context);
    data("on_bad_picture", v.on_bad_picture);
    data("bad_pictures_max", v.bad_pictures_max);
  });
}
template <typename A>
void Fields(A& a, TextModel& v) {
  a("hidden", v.hidden);
  a("layers", v.layers);
  a("heads", v.heads);
  a("kv_heads", v.kv_heads);
  a("intermediate", v.intermediate);
  a("rope_theta", v.rope_theta);
  a("rms_eps", v.rms_eps);
  a("initializer_range", v.initializer_range);
  a("tied", v.tied);
  a("context", v.context);
}
template <typename A>
void Fields(A& a, VisionModel& v) {
  a("hidden", v.hidden);
  a("layers", v.layers);
  a("heads", v.heads);
  a("intermediate", v.intermediate);
  a("image_size", v.image_size);
  a("patch", v.patch);
  a("norm_eps", v.norm_eps);
}
template <typename A>
void Fields(A& a, Connector& v) {
  a("kind", v.kind);
}
template <typename A>
void Fields(A& a, TrainingModel& v) {
  a("text", v.text);
  a.Object("llm", !v.llm_stage.empty(), [&](A& llm) { llm.Reference("from", v.llm_stage); });
  a("vision", v.vision);
  a("connector", v.connector);
  a.Reference("from", v.from_stage);
}
template <typename A>
void Fields(A& a, MixtureEntry& v) {
  a("source", v.source);
  a("weight", v.weight);
  a("stop", v.stop);
}
template <typename A>
void Fields(A& a, TrainingData& v) {
  a.Reference("index", v.index_stage);
  a("mixture", v.mixture);
}
template <typename A>
void Fields(A& a, AdamW& v) {
  a.Constant("kind", "adamw");
  a("beta1", v.beta1);
  a("beta2", v.beta2);
  a("eps", v.eps);
  a("weight_decay", v.weight_decay);
}
template <typename A>
void Fields(A& a, LearningRateSchedule& v) {
  a("kind", v.kind);
  a("warmup", v.warmup);
  a("final_ratio", v.final_ratio);
}
template <typename A>
void Fields(A& a, ParameterRule& v) {
  a("pattern", v.pattern);
  a("lr", v.lr);
  a("weight_decay", v.weight_decay);
}
template <typename A>
void Fields(A& a, TrainSettings& v) {
  a("steps", v.length.steps);
  a("epochs", v.length.epochs);
  a("tokens", v.length.tokens);
  a("global_batch", v.global_batch);
  a("micro_batch", v.micro_batch);
  a("packing", v.packing);
  a("optimizer", v.optimizer);
  a("lr", v.lr);
  a("schedule", v.schedule);
  a("clip", v.clip);
  a("label_smoothing", v.label_smoothing);
  a("precision", v.precision);
  a("zero", v.zero);
  a("overlap", v.overlap);
  a("recompute", v.recompute);
  a("trainable", v.trainable);
  a("rules", v.rules);
}
template <typename A>
void Fields(A& a, CheckpointSettings& v) {
  a("every", v.every);
  a("keep_last", v.keep_last);
  a("keep_every", v.keep_every);
}
template <typename A>
void Fields(A& a, TrainingSettings& v) {
  a("model", v.model);
  a("data", v.data);
  a("train", v.train);
  a("checkpoint", v.checkpoint);
  a.Object("stop_if", true, [&](A& stop_if) { stop_if("nonfinite_steps", v.nonfinite_steps_max); });
}
template <typename A>
void Fields(A& a, EvaluateTask& v) {
  a("name", v.name);
  a("source", v.source);
  a("limit", v.limit);
  a("control", v.control);
  a("targets", v.targets);
}
template <typename A>
void Fields(A& a, EvaluateSettings& v) {
  a.Object("model", true, [&](A& model) { model.Reference("from", v.model_stage); });
  a.Object("data", true, [&](A& data) { data.Reference("index", v.index_stage); });
  a("tasks", v.tasks);
  a.Object("generation", true, [&](A& generation) { generation("max_tokens", v.max_tokens); });
  a.Object("samples", true, [&](A& samples) { samples("log_images", v.log_images); });
  a("control_margin", v.control_margin);
}
template <typename A>
void Fields(A& a, Stage& v) {
  a("name", v.name);
  a("kind", v.kind);
  a("needs", v.needs);
  a("ranks", v.ranks);
  a("seed", v.seed);
  if (IsPool(v.kind) && v.kind != StageKind::kGenerate) a("shards", v.shards);
  std::visit([&](auto& settings) { Fields(a, settings); }, v.settings);
}

void SelectSettings(Stage* stage) {
  switch (stage->kind) {
    case StageKind::kGenerate:
      stage->settings = GenerateSettings();
      break;
    case StageKind::kTokenizer:
      stage->settings = TokenizerSettings();
      break;
    case StageKind::kIndex:
      stage->settings = IndexSettings();
      break;
    case StageKind::kPretrain:
    case StageKind::kAlign:
    case StageKind::kSft:
      stage->settings = TrainingSettings();
      break;
    case StageKind::kEvaluate:
      stage->settings = EvaluateSettings();
      break;
  }
}

uint32_t GeneratedShards(const GenerateSettings& settings) {
  int64_t shards = 0;
  for (const GenerateSplit& split : settings.splits) {
    shards += (split.samples + settings.shard_samples - 1) / settings.shard_samples;
  }
  constexpr int64_t kMost = UINT32_MAX;
  return static_cast<uint32_t>(std::min(shards, kMost));
}

}  // namespace

template <typename Archive, typename T>
void Bind(Archive& archive, T& value) {
  Fields(archive, value);
}

StageTexts WriteStage(const Stage& stage) {
  static const SchemaNode* const schema = FindSchemaNode("spec.stages[]");
  Stage copy = stage;  // the shared bodies take what they could also set
  CanonicalWriter writer(schema, MaskOf(stage.kind));
  writer.Write(copy);
  return {writer.TakeAll(), writer.TakeSemantic()};
}

Stage FromCheckedJson(const CheckedJson& json) {
  Stage stage;
  stage.kind = *FromWord<StageKind>(json.at("kind").get_ref<const std::string&>());
  SelectSettings(&stage);
  JsonReader reader(json);
  Fields(reader, stage);
  if (stage.kind == StageKind::kGenerate) stage.shards = GeneratedShards(stage.generate());
  return stage;
}

}  // namespace vlm::spec
