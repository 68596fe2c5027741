// The gang stages: pretrain, align and sft, which differ only in where the model comes from and what trains.
#ifndef VLM_TRAINER_STAGES_TRAINING_STAGE_H_
#define VLM_TRAINER_STAGES_TRAINING_STAGE_H_

#include "base/status.h"
#include "trainer/stage_context.h"

namespace vlm::trainer {

// Curve of a training stage, in its artifact: one JSON object a line: step, loss, learning_rate, gradient_norm,
// tokens, images. Every step of up to 16,384, evenly spaced ones of more (training_curve.h). The same bytes for any
// number of ranks.
inline constexpr char kCurvesFile[] = "curves.jsonl";
// Beside it, what a resumed attempt must agree with: format, step, fingerprint of data and numerics.
inline constexpr char kTrainerStateFile[] = "trainer_state.json";

// Runs one rank of one attempt to the end of the stage. Collective over the attempt's ranks.
absl::Status RunTraining(const StageContext& context);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_TRAINING_STAGE_H_
