// One rank that trains a LLaVA on a device of choice; what equality tests, GPU tests and benchmarks run.
#ifndef VLM_TESTS_UNIT_TRAIN_LLAVA_RUN_H_
#define VLM_TESTS_UNIT_TRAIN_LLAVA_RUN_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../model/graph_runner.h"
#include "train/parameter_store.h"
#include "train/training_step.h"

namespace vlm::train {

struct LlavaRunOptions {
  model::LlavaConfig config = {};
  std::vector<model::testing::DocumentShape> documents = {};  // of each micro-batch
  // Instead of `documents`: of micro-batch m of a step.
  std::function<std::vector<model::testing::DocumentShape>(uint64_t step, int64_t m)> documents_of = {};
  int64_t micro_batches = 2;  // of each step
  uint64_t first_step = 1;
  ZeroLevel zero = ZeroLevel::kZero2;
  at::Device device = at::kCPU;
  at::ScalarType compute = at::kFloat;
  bool overlap = false, recompute = false, measure_activations = false;
  std::vector<std::string> trainable = {};  // patterns; empty: all
  bool same_batches = false;                // every step sees the first one's, made once
  model::testing::Text text = model::testing::Text::kRandom;
};

// Dies on errors: there is nothing to test or measure then.
class LlavaRun {
 public:
  static constexpr double kClipNorm = 1.0;
  // Starts from weights that depend on nothing but the configuration. Null: a single rank.
  explicit LlavaRun(const LlavaRunOptions& options, std::unique_ptr<Collective> collective = nullptr);
  // `collective` outlives *this.
  LlavaRun(const LlavaRunOptions& options, Collective* collective);
  ~LlavaRun();
  // The next step, of batches that depend on its number alone, or on nothing.
  StepResult Step();
  ParameterStore* store() { return store_.get(); }
  const model::Graph& graph() const { return graph_; }

 private:
  void MakeBatches();

  const LlavaRunOptions options_;
  model::Graph graph_;
  std::unique_ptr<Collective> owned_collective_;
  Collective* const collective_;
  std::unique_ptr<CommunicationQueue> queue_;
  std::unique_ptr<ParameterStore> store_;
  std::unique_ptr<TrainingStep> training_;
  uint64_t step_;                           // the last one
  std::vector<model::MicroBatch> batches_;  // of the last step, on the device
};

}  // namespace vlm::train

#endif  // VLM_TESTS_UNIT_TRAIN_LLAVA_RUN_H_
