// Reading the step that an attempt resumes from, and what a rank does when it cannot.
#ifndef VLM_TRAINER_STAGES_RESUME_H_
#define VLM_TRAINER_STAGES_RESUME_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "train/parameter_store.h"
#include "trainer/stage_context.h"

namespace vlm::trainer {

// A text file of the resume step, compared with its sums. DATA_LOSS naming file and chunk.
absl::StatusOr<std::string> ReadResumeFile(const StageContext& context, const std::string& name, uint64_t bytes_max);

// Weights and optimizer state of the resume step, compared with their sums. DATA_LOSS naming file and chunk;
// INVALID_ARGUMENT, to end as `incompatible`, naming the tensor that does not fit the model.
absl::Status LoadResume(const StageContext& context, train::ParameterStore* store);

// What becomes of an error of reading the resume step. DATA_LOSS: the checkpoint service is asked to read the step
// again; one that it finds damaged too is not resumed from any more, so that the next attempt falls back to the step
// before. The result is DATA_LOSS with what came of it. Other errors, and OK, as they are. Blocks while the service
// reads.
absl::Status AskForFallback(const StageContext& context, const absl::Status& error);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGES_RESUME_H_
