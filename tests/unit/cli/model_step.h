// A checkpoint step on disk, as a training stage writes it.
#ifndef VLM_TESTS_UNIT_CLI_MODEL_STEP_H_
#define VLM_TESTS_UNIT_CLI_MODEL_STEP_H_

#include <string>
#include <vector>

#include "checkpoint/format/durable_file.h"

namespace vlm::cli {

// Into the empty folder `folder`: two weights files under one index (the larger of two chunks), configuration,
// tokenizer, optimizer state and curves, all with their sums.
std::vector<checkpoint::FileClaim> WriteModelStep(const std::string& folder);

}  // namespace vlm::cli

#endif  // VLM_TESTS_UNIT_CLI_MODEL_STEP_H_
