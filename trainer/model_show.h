// What a training stage of a job file will train, and the memory a rank will need, before anything runs.
#ifndef VLM_TRAINER_MODEL_SHOW_H_
#define VLM_TRAINER_MODEL_SHOW_H_

#include <string>
#include <vector>

#include "base/status.h"

namespace vlm::trainer {

struct ModelShowOptions {
  std::string job_file;
  std::vector<std::string> overrides;  // "path=value", as vlmctl's --set
  std::string stage;                   // empty: the last that trains
  int ranks = 0;                       // 0: the most that the stage may have
};

// Text for people: parameters by part, parameter groups with rate and decay, memory of a rank by class. Activations are
// those of the largest micro-batch that the settings allow: every row full, one picture a row. INVALID_ARGUMENT with
// all diagnostics of the job file, one a line, or naming a stage that does not train, or a pattern of the settings that
// matches nothing.
absl::StatusOr<std::string> ModelShow(const ModelShowOptions& options);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_MODEL_SHOW_H_
