// A training stage's settings as the engine's options: pure, for running a stage and for showing it beforehand.
#ifndef VLM_TRAINER_STAGES_TRAINING_CONFIG_H_
#define VLM_TRAINER_STAGES_TRAINING_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/graph.h"
#include "model/llava_config.h"
#include "spec/job.h"
#include "train/parameter_store.h"
#include "train/training_step.h"
#include "trainer/stages/model_folder.h"

namespace vlm::trainer {

model::TextConfig TextConfigOf(const spec::TextModel& text, int64_t vocabulary);
model::VisionConfig VisionConfigOf(const spec::VisionModel& vision);

// The model that a training stage of a checked job trains, from the stages it builds on. The vocabulary is the most
// that the tokenizer stage may make; one that runs out of pairs makes fewer entries. The place token's id is not known
// yet.
ModelConfig ModelConfigOf(const spec::Job& job, const spec::Stage& stage);

// Patterns of train/selection.h; empty: everything trains.
std::vector<std::string> TrainablePatterns(const spec::TrainSettings& settings);
train::StoreOptions StoreOptionsOf(const spec::TrainSettings& settings, at::Device device);
train::TrainingOptions TrainingOptionsOf(const spec::Stage& stage, const ModelConfig& config, const model::Graph& graph,
                                         const std::vector<bool>& trainable, uint64_t steps);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_TRAINING_CONFIG_H_
