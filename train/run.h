// Runs a schedule: the only place where units, parameters, gradients and communication meet.
#ifndef VLM_TRAIN_RUN_H_
#define VLM_TRAIN_RUN_H_

#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"
#include "model/graph.h"
#include "train/objective.h"
#include "train/parameter_store.h"
#include "train/schedule.h"

namespace vlm::train {

struct RunInputs {
  const model::MicroBatch* batch = nullptr;  // null: this rank has none, it only joins the communication
  const Objective* objective = nullptr;
  GlobalCounts global;
  bool measure_activations = false;  // counts this thread's CPU allocations; a few per cent slower
};

struct RunResult {
  double loss = 0;                   // this micro-batch's part of the step's loss
  absl::Duration forward, backward;  // without time blocked on communication
  int64_t activation_bytes = 0;      // peak of bytes allocated by the run, when measured
  std::vector<bool> nodes_run;       // by node: whether its forward ran here
};

// One micro-step on this rank. Collective where the schedule communicates. StatusOfException (train/torch_edge.h)
// naming node and direction, or the loss, when LibTorch throws, FAILED_PRECONDITION from the store, errors of the
// collective.
// After an error the step cannot be continued: the store's gradients are incomplete.
absl::StatusOr<RunResult> Run(const Schedule& schedule, ParameterStore* store, const RunInputs& inputs,
                              const Clock* clock);

}  // namespace vlm::train

#endif  // VLM_TRAIN_RUN_H_
