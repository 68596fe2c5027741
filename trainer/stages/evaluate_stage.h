// Evaluation: a pool that answers questions greedily and a finish task that scores them and writes the report.
#ifndef VLM_TRAINER_STAGES_EVALUATE_STAGE_H_
#define VLM_TRAINER_STAGES_EVALUATE_STAGE_H_

#include "base/status.h"
#include "trainer/stage_context.h"

namespace vlm::trainer {

absl::Status RunEvaluate(const StageContext& context);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_EVALUATE_STAGE_H_
