#include "llava_run.h"

#include "base/clock.h"
#include "model/device_batch.h"
#include "model/init.h"
#include "model/llava.h"
#include "must.h"
#include "train/selection.h"

namespace vlm::train {
namespace {

TrainingOptions OptionsOf(const model::LlavaConfig& config) {
  TrainingOptions options;
  options.seed = 7;
  options.optimizer.lr = 1e-3;
  options.optimizer.weight_decay = 0.1;
  options.optimizer.rules = {{"connector", 2e-3, {}}};
  options.lr_schedule = {LrShape::kCosine, 2, 1000, 0.1};
  options.clip_norm = LlavaRun::kClipNorm;
  options.label_smoothing = 0.1;
  options.vocabulary = config.text.vocab_size;
  return options;
}

}  // namespace

LlavaRun::LlavaRun(const LlavaRunOptions& options, std::unique_ptr<Collective> collective)
    : LlavaRun(options, collective.get()) {
  if (collective != nullptr) owned_collective_ = std::move(collective);
}

LlavaRun::LlavaRun(const LlavaRunOptions& options, Collective* collective)
    : options_(options),
      graph_(Must(model::BuildLlava(options.config))),
      owned_collective_(collective == nullptr ? NewSingleRankCollective() : nullptr),
      collective_(collective == nullptr ? owned_collective_.get() : collective),
      queue_(std::make_unique<CommunicationQueue>(options.overlap, RealClock())),
      step_(options.first_step - 1) {
  const std::vector<bool> trainable = Must(SelectTrainable(graph_, options.trainable));
  const StoreOptions store{.zero = options.zero, .compute = options.compute, .device = options.device};
  store_ = Must(ParameterStore::Create(&graph_, PlanBuckets(graph_, trainable, collective_->world()), store,
                                       collective_, queue_.get()));
  for (size_t i = 0; i < graph_.params.size(); ++i) {
    Must(store_->WriteParameter(static_cast<model::ParamId>(i), model::Initialize(graph_.params[i], 11)));
  }
  TrainingOptions training = OptionsOf(options.config);
  training.plan.recompute = options.recompute;
  training.measure_activations = options.measure_activations;
  training_ = Must(TrainingStep::Create(training, store_.get(), RealClock()));
}

LlavaRun::~LlavaRun() = default;

void LlavaRun::MakeBatches() {
  batches_.clear();
  for (int64_t m = collective_->rank(); m < options_.micro_batches; m += collective_->world()) {
    const uint64_t seed = 1000 * step_ + static_cast<uint64_t>(m);
    const auto documents = options_.documents_of ? options_.documents_of(step_, m) : options_.documents;
    model::MicroBatch batch = model::testing::RandomBatch(options_.config, documents, seed, options_.text);
    batch.global_index = m;
    batches_.push_back(model::MoveTo(batch, options_.device));
  }
}

StepResult LlavaRun::Step() {
  ++step_;
  if (batches_.empty() || !options_.same_batches) MakeBatches();
  std::vector<MicroBatchHeader> headers;
  for (const model::MicroBatch& batch : batches_) headers.push_back(Describe(batch));
  Must(training_->Announce(step_, std::move(headers)));
  return Must(training_->Step(batches_));
}

}  // namespace vlm::train
