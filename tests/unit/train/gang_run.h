// A whole training run of the toy model by ranks that are threads; what equality tests compare.
#ifndef VLM_TESTS_UNIT_TRAIN_GANG_RUN_H_
#define VLM_TESTS_UNIT_TRAIN_GANG_RUN_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../collectives/collective_group.h"
#include "base/clock.h"
#include "toy_model.h"
#include "train/parameter_store.h"
#include "train/selection.h"
#include "train/training_step.h"

namespace vlm::train {

struct GangOptions {
  ToyOptions toy;
  int world = 1;
  std::optional<Transport> transport;  // how ranks are connected; absent: by ThreadGang, within the process
  ZeroLevel zero = ZeroLevel::kZero2;
  at::ScalarType compute = at::kFloat;
  bool overlap = false;
  uint64_t first_step = 1, steps = 5;
  int64_t micro_batches = 5;  // of a step
  std::function<int64_t(uint64_t step, int64_t m)> images = [](uint64_t, int64_t m) { return m % 3; };
  bool same_batches = false;                                            // every step sees step 1's
  std::function<uint64_t(uint64_t step)> batch_step;                    // which step's data a step sees
  std::function<void(uint64_t step, model::MicroBatch* batch)> change;  // of one micro-batch before it is used
  std::vector<std::string> trainable;                                   // patterns; empty: all
  TrainingOptions training = DefaultTraining();
  std::function<void(model::Graph* graph)> change_graph;  // of a rank, before anything uses it
  // Called on every rank's thread before the first step, after initialisation, and after the last step.
  std::function<void(ParameterStore*)> before, after;
  static TrainingOptions DefaultTraining();
};

struct GangResult {
  std::vector<double> losses, norms;
  std::vector<StepResult> results;            // of rank 0
  std::map<std::string, at::Tensor> weights;  // by name, of rank 0
  std::vector<Ledger> ledgers;                // by rank
  std::vector<uint64_t> bytes_communicated;   // by rank, as the collective counts
};

// One rank's engine, as the trainer program builds it.
class ToyRank {
 public:
  ToyRank(const GangOptions& options, Collective* collective);
  ParameterStore* store() { return store_.get(); }
  TrainingStep* training() { return training_.get(); }
  const model::Graph& graph() const { return graph_; }
  std::vector<model::MicroBatch> Batches(uint64_t step) const;
  std::vector<MicroBatchHeader> Headers(uint64_t step) const;

 private:
  const GangOptions options_;
  Collective* const collective_;
  model::Graph graph_;
  std::unique_ptr<CommunicationQueue> queue_;
  std::unique_ptr<ParameterStore> store_;
  std::unique_ptr<TrainingStep> training_;
};

// `body` as every rank on a thread of its own, connected by `transport` (absent: ThreadGang). A rank that cannot
// connect fails the test.
void RunConnected(std::optional<Transport> transport, int world, const std::function<void(Collective*)>& body);

GangResult RunGang(const GangOptions& options);

// Bit equality of losses, norms and weights, with the first difference in the message.
void ExpectEqualBits(const GangResult& a, const GangResult& b, const std::string& what);
bool EqualBits(const at::Tensor& a, const at::Tensor& b);
std::map<std::string, at::Tensor> AllWeights(ParameterStore* store);

}  // namespace vlm::train

#endif  // VLM_TESTS_UNIT_TRAIN_GANG_RUN_H_
