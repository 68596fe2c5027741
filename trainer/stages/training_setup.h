// From a stage's settings to the parts of a training run: data, model, store and step.
#ifndef VLM_TRAINER_STAGES_TRAINING_SETUP_H_
#define VLM_TRAINER_STAGES_TRAINING_SETUP_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "data/batch_plan.h"
#include "data/chat_template.h"
#include "data/loader.h"
#include "data/manifest.h"
#include "data/tokenizer/tokenizer.h"
#include "model/graph.h"
#include "train/collective.h"
#include "train/communication_queue.h"
#include "train/parameter_store.h"
#include "train/training_step.h"
#include "trainer/stage_context.h"
#include "trainer/stages/model_folder.h"

namespace vlm::trainer {

// What an index stage's artifact gives: manifest, tokenizer, template and a reader. Parts refer to each other, so
// it lives behind a pointer.
struct IndexedData {
  InputArtifact artifact;
  data::Manifest manifest;
  std::unique_ptr<data::Tokenizer> tokenizer;
  std::unique_ptr<data::ChatTemplate> chat_template;
  data::PixelOptions pixels;
  std::unique_ptr<data::SampleReader> reader;
};
absl::StatusOr<std::unique_ptr<IndexedData>> OpenIndexedData(const StageContext& context, const std::string& stage);

// Optimizer steps of a stage, and the batches that feed them.
struct TrainingPlan {
  data::BatchPlan batches;
  uint64_t steps = 0;
  std::string fingerprint;  // hex; a checkpoint with another one is refused
};
absl::StatusOr<TrainingPlan> PlanTraining(const StageContext& context, const IndexedData& data);

// The model's shape: from the job file, or from an earlier stage's artifact.
absl::StatusOr<ModelConfig> TrainingModelConfig(const StageContext& context, const IndexedData& data);

// The device of this rank, ready for tensors. Errors of train::LoadCudaDevices.
absl::StatusOr<at::Device> OpenDevice(const StageContext& context);

// Connects the ranks of the attempt: shared memory where all ranks are on one machine, TCP otherwise; NCCL beside it
// for GPUs (after OpenDevice). READY is posted.
absl::StatusOr<std::unique_ptr<train::Collective>> ConnectRanks(const StageContext& context);

// The graph with its store and step, in the order in which they must be destroyed.
struct TrainingParts {
  std::unique_ptr<model::Graph> graph;
  std::unique_ptr<train::Collective> collective;
  std::unique_ptr<train::CommunicationQueue> queue;
  std::unique_ptr<train::ParameterStore> store;
  std::unique_ptr<train::TrainingStep> step;
};
// Makes the rest around `parts->collective`, which is there already and stays on an error: the other ranks are told
// through it.
absl::Status BuildTraining(const StageContext& context, const ModelConfig& config, at::Device device, uint64_t steps,
                           TrainingParts* parts);

// Starting values of a stage's first attempt: drawn for every parameter, then those of earlier stages over them.
// DATA_LOSS names file and chunk; INVALID_ARGUMENT, to end as `incompatible`, tensor and folder.
absl::Status LoadStart(const StageContext& context, const ModelConfig& config, train::ParameterStore* store);

// A loaded micro-batch as tensors that share its memory: `host` must outlive the result.
model::MicroBatch ToMicroBatch(const data::HostMicroBatch& host, const data::PixelOptions& pixels);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_TRAINING_SETUP_H_
