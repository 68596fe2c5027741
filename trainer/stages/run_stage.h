// From a stage's kind to the code that runs it.
#ifndef VLM_TRAINER_STAGES_RUN_STAGE_H_
#define VLM_TRAINER_STAGES_RUN_STAGE_H_

#include "base/status.h"
#include "trainer/stage_context.h"

namespace vlm::trainer {

// Runs this rank's part of the context's stage to its end. UNIMPLEMENTED for a kind that this build does not know,
// else the errors of the stage; what the stage throws is one of them (train/torch_edge.h).
absl::Status RunStage(const StageContext& context);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_RUN_STAGE_H_
