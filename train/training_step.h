// One optimizer step of a gang: micro-batches in, updated parameters and one line of figures out.
#ifndef VLM_TRAIN_TRAINING_STEP_H_
#define VLM_TRAIN_TRAINING_STEP_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"
#include "train/adamw.h"
#include "train/lr_schedule.h"
#include "train/objective.h"
#include "train/parameter_store.h"
#include "train/run.h"
#include "train/schedule.h"
#include "train/step_header.h"

namespace vlm::train {

struct TrainingOptions {
  uint64_t seed = 0;  // of the job; ranks that differ in it must not train together: they would draw other batches
  AdamWOptions optimizer;
  LrScheduleOptions lr_schedule;
  double clip_norm = 0;  // 0: none
  double label_smoothing = 0;
  int64_t vocabulary = 0;  // entries of the head; needed with label smoothing
  PlanOptions plan;        // recompute, prefetch
  bool measure_activations = false;
};

struct PhaseTimes {
  absl::Duration forward, backward, communication, optimizer;
};

struct StepResult {
  uint64_t step = 0;
  double loss = 0;           // of the whole step, fp64 in order of m; the same on every rank
  double gradient_norm = 0;  // before clipping
  double lr_factor = 0;
  double lr = 0;                       // the highest rate of a group in this step
  model::Counts totals;                // over all ranks
  bool non_finite = false;             // skipped by all ranks: parameters, moments and counts unchanged
  uint64_t non_finite_steps = 0;       // skipped so far by this object
  PhaseTimes times;                    // of this rank
  std::vector<uint64_t> bad_pictures;  // of the step's pictures, over all ranks: ascending, each once
};

// Every rank makes the same calls in the same order:  Announce(1); then for each step k: Announce(k + 1), Step(k). Not
// thread-safe: one thread. The store outlives *this.
class TrainingStep {
 public:
  // INVALID_ARGUMENT from the options' checks.
  static absl::StatusOr<std::unique_ptr<TrainingStep>> Create(const TrainingOptions& options, ParameterStore* store,
                                                              const Clock* clock);
  ~TrainingStep();

  // Sends this rank's header of a coming step and collects the others' (collective; on the communication thread with
  // overlap, its error then comes from Step). At most two steps may be announced and not run. FAILED_PRECONDITION when
  // steps are not announced one after another. `bad_pictures` as of RankHeader.
  absl::Status Announce(uint64_t step, std::vector<MicroBatchHeader> micro_batches,
                        std::vector<uint64_t> bad_pictures = {});

  // Runs the oldest announced step with this rank's micro-batches, ascending m, exactly those announced (none for a
  // rank that has none). Collective. Errors of ExchangeHeader, Run and the collective; INVALID_ARGUMENT when the
  // micro-batches are not the announced ones; StatusOfException (train/torch_edge.h) naming the step when LibTorch
  // throws outside a node. After an error the attempt must end.
  absl::StatusOr<StepResult> Step(const std::vector<model::MicroBatch>& micro_batches);

  // As options.measure_activations, for the next micro-batch of this rank only: costs once what that costs always.
  void MeasureNextMicroBatch() { measure_next_ = true; }

  const GroupTable& groups() const;
  const std::string& plan_hash() const { return plan_hash_; }  // what the header compares
  const Schedule& schedule(bool images) const { return schedules_[images]; }

 private:
  struct Announced;    // a header on its way
  struct Accumulated;  // what the micro-steps left behind on this rank
  TrainingStep(const TrainingOptions& options, GroupTable groups, std::unique_ptr<Objective> objective,
               ParameterStore* store, const Clock* clock);
  std::string PlanHash() const;
  std::unique_ptr<Announced> Send(RankHeader header);
  absl::StatusOr<StepResult> RunAnnounced(Announced* announced, const std::vector<model::MicroBatch>& micro_batches);
  absl::StatusOr<StepHeader> Receive(Announced* announced, const std::vector<model::MicroBatch>& micro_batches);
  absl::StatusOr<Accumulated> RunMicroSteps(const StepHeader& header,
                                            const std::vector<model::MicroBatch>& micro_batches);
  absl::Status JoinLosses(const StepHeader& header, Accumulated* accumulated);
  absl::Status Optimize(const Accumulated& accumulated, StepResult* result);

  const TrainingOptions options_;
  const GroupTable groups_;
  const std::unique_ptr<Objective> objective_;
  ParameterStore* const store_;
  const Clock* const clock_;
  Schedule schedules_[2];  // by presence of images
  std::string plan_hash_;
  std::deque<std::unique_ptr<Announced>> announced_;
  std::optional<uint64_t> last_announced_;
  uint64_t non_finite_steps_ = 0;
  bool measure_next_ = false;
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_TRAINING_STEP_H_
