// The settings of a training stage (pretrain, align, sft) as typed, checked values. Plain data.
#ifndef VLM_SPEC_TRAINING_SETTINGS_H_
#define VLM_SPEC_TRAINING_SETTINGS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace vlm::spec {

struct TextModel {
  int32_t hidden = 0, layers = 0, heads = 0, kv_heads = 0, intermediate = 0;
  double rope_theta = 0, rms_eps = 0, initializer_range = 0;
  bool tied = true;     // output head and embedding are one parameter
  int32_t context = 0;  // tokens
};
struct VisionModel {
  int32_t hidden = 0, layers = 0, heads = 0, intermediate = 0;
  int32_t image_size = 0, patch = 0;  // pixels
  double norm_eps = 0;
};
enum class ConnectorKind { kMlp };
struct Connector {
  ConnectorKind kind = ConnectorKind::kMlp;
};
// pretrain: `text`. align: `llm_stage`, `vision`, `connector`. sft: `from_stage`.
struct TrainingModel {
  std::optional<TextModel> text;
  std::string llm_stage;
  std::optional<VisionModel> vision;
  std::optional<Connector> connector;
  std::string from_stage;
};
struct MixtureEntry {
  std::string source;           // a source of the index
  double weight = 1;            // relative, by samples
  std::optional<int64_t> stop;  // at most this many samples of the source per epoch
};
struct TrainingData {
  std::string index_stage;
  std::vector<MixtureEntry> mixture;
};

// Exactly one is set.
struct TrainingLength {
  std::optional<int64_t> steps;   // optimizer steps
  std::optional<double> epochs;   // passes over the mixture
  std::optional<int64_t> tokens;  // rows x context, rounded up to a whole step
};
struct AdamW {
  double beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
};
enum class ScheduleKind { kCosine, kLinear, kConstant };
struct LearningRateSchedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  int64_t warmup = 0;      // optimizer steps, linear from 0
  double final_ratio = 0;  // the rate of the last step over the peak
};
// Overrides for parameters by Hugging Face name; the last matching rule wins. A rule that matches no
// parameter is the trainer's error.
struct ParameterRule {
  std::string pattern;  // glob over the whole name: * and ?
  std::optional<double> lr;
  std::optional<double> weight_decay;
};
enum class Precision { kFp32, kBf16 };
struct TrainSettings {
  TrainingLength length;
  int32_t global_batch = 0;  // rows of one optimizer step
  int32_t micro_batch = 0;   // rows of one forward; part of the numerics
  bool packing = false;      // rows are packs of at most `context` tokens of the index
  AdamW optimizer;
  std::map<std::string, double> lr;  // peak, by group: llm, vision, connector, embedding
  LearningRateSchedule schedule;
  double clip = 0;  // global gradient norm; 0: no clipping
  double label_smoothing = 0;
  Precision precision = Precision::kFp32;
  int32_t zero = 2;  // 0 to 3
  bool overlap = false;
  bool recompute = false;
  std::vector<std::string> trainable;  // "all", "llm", "vision", "connector", "llm.blocks[-4:]"
  std::vector<ParameterRule> rules;
};
struct CheckpointSettings {
  int64_t every = 0;  // optimizer steps between saves; the last step is always saved
  int32_t keep_last = 0;
  int64_t keep_every = 0;  // steps that are multiples are kept for good; 0: none
};
struct TrainingSettings {
  TrainingModel model;
  TrainingData data;
  TrainSettings train;
  CheckpointSettings checkpoint;
  int32_t nonfinite_steps_max = 0;  // from stop_if: more skipped steps in a row end the attempt (exit 79)
};

}  // namespace vlm::spec

#endif  // VLM_SPEC_TRAINING_SETTINGS_H_
