#include "trainer/stages/training_config.h"

#include <algorithm>

#include "base/check.h"
#include "model/llava.h"

namespace vlm::trainer {
namespace {

train::LrShape ShapeOf(spec::ScheduleKind kind) {
  switch (kind) {
    case spec::ScheduleKind::kCosine:
      return train::LrShape::kCosine;
    case spec::ScheduleKind::kLinear:
      return train::LrShape::kLinear;
    case spec::ScheduleKind::kConstant:
      return train::LrShape::kConstant;
  }
  return train::LrShape::kCosine;
}

// The job file's group as a pattern of train/selection.h.
std::string PatternOf(const std::string& group) { return group == "embedding" ? "*embed_tokens*" : group; }

train::AdamWOptions OptimizerOf(const spec::TrainSettings& settings, const std::vector<std::string>& groups) {
  train::AdamWOptions options;
  options.beta1 = settings.optimizer.beta1;
  options.beta2 = settings.optimizer.beta2;
  options.epsilon = settings.optimizer.eps;
  options.weight_decay = settings.optimizer.weight_decay;
  for (const std::string& group : {std::string("llm"), std::string("vision"), std::string("connector"),
                                   std::string("embedding")}) {  // the embedding after the group that holds it
    const auto lr = settings.lr.find(group);
    const bool present = std::find(groups.begin(), groups.end(), group) != groups.end();
    if (lr != settings.lr.end() && present) options.rules.push_back({PatternOf(group), lr->second, {}});
  }
  for (const spec::ParameterRule& rule : settings.rules) {
    options.rules.push_back({rule.pattern, rule.lr, rule.weight_decay, train::Naming::kGlob});
  }
  return options;
}

// Which of the job file's groups hold a trainable parameter.
std::vector<std::string> TrainableGroups(const model::Graph& graph, const std::vector<bool>& trainable) {
  std::vector<std::string> groups;
  for (size_t param = 0; param < graph.params.size(); ++param) {
    if (!trainable[param]) continue;
    const std::string& name = graph.params[param].name;
    groups.push_back(std::string(model::ParameterGroup(name)));
    if (name.find("embed_tokens") != std::string::npos) groups.push_back("embedding");
  }
  std::sort(groups.begin(), groups.end());
  groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
  return groups;
}

const spec::Stage& StageOf(const spec::Job& job, const std::string& name) {
  const spec::Stage* const stage = spec::FindStage(job, name);
  VLM_CHECK(stage != nullptr, "a checked job has every stage that it names: " + name);
  return *stage;
}

}  // namespace

model::TextConfig TextConfigOf(const spec::TextModel& text, int64_t vocabulary) {
  model::TextConfig config;
  config.vocab_size = vocabulary;
  config.hidden_size = text.hidden;
  config.intermediate_size = text.intermediate;
  config.num_hidden_layers = text.layers;
  config.num_attention_heads = text.heads;
  config.num_key_value_heads = text.kv_heads;
  config.max_position_embeddings = text.context;
  config.rope_theta = text.rope_theta;
  config.rms_norm_eps = text.rms_eps;
  config.initializer_range = text.initializer_range;
  config.tie_word_embeddings = text.tied;
  return config;
}

model::VisionConfig VisionConfigOf(const spec::VisionModel& vision) {
  model::VisionConfig config;
  config.hidden_size = vision.hidden;
  config.intermediate_size = vision.intermediate;
  config.num_hidden_layers = vision.layers;
  config.num_attention_heads = vision.heads;
  config.image_size = vision.image_size;
  config.patch_size = vision.patch;
  config.layer_norm_eps = vision.norm_eps;
  return config;
}

ModelConfig ModelConfigOf(const spec::Job& job, const spec::Stage& stage) {
  const spec::TrainingModel& settings = stage.training().model;
  ModelConfig config;
  if (settings.text.has_value()) {
    const spec::Stage& index = StageOf(job, stage.training().data.index_stage);
    config.text = TextConfigOf(*settings.text, StageOf(job, index.index().tokenizer_stage).tokenizer().vocab_size);
  } else {
    const std::string& parent = settings.from_stage.empty() ? settings.llm_stage : settings.from_stage;
    config = ModelConfigOf(job, StageOf(job, parent));
  }
  if (settings.vision.has_value()) {
    model::LlavaConfig llava;
    llava.text = config.text;
    llava.vision = VisionConfigOf(*settings.vision);
    llava.image_token_index = config.text.vocab_size - 1;
    config.llava = llava;
  }
  return config;
}

std::vector<std::string> TrainablePatterns(const spec::TrainSettings& settings) {
  for (const std::string& pattern : settings.trainable) {
    if (pattern == "all") return {};
  }
  return settings.trainable;
}

train::StoreOptions StoreOptionsOf(const spec::TrainSettings& settings, at::Device device) {
  return {.zero = static_cast<train::ZeroLevel>(settings.zero),
          .compute = settings.precision == spec::Precision::kBf16 ? at::kBFloat16 : at::kFloat,
          .device = device};
}

train::TrainingOptions TrainingOptionsOf(const spec::Stage& stage, const ModelConfig& config, const model::Graph& graph,
                                         const std::vector<bool>& trainable, uint64_t steps) {
  const spec::TrainSettings& settings = stage.training().train;
  train::TrainingOptions options;
  options.seed = stage.seed;
  options.optimizer = OptimizerOf(settings, TrainableGroups(graph, trainable));
  options.lr_schedule = {.shape = ShapeOf(settings.schedule.kind),
                         .warmup_steps = settings.schedule.warmup,
                         .total_steps = static_cast<int64_t>(steps),
                         .final_fraction = settings.schedule.final_ratio};
  options.clip_norm = settings.clip;
  options.label_smoothing = settings.label_smoothing;
  options.vocabulary = config.text.vocab_size;
  options.plan.recompute = settings.recompute;
  return options;
}

}  // namespace vlm::trainer
