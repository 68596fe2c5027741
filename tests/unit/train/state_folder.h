// A training state in real files, without the checkpoint service.
#ifndef VLM_TESTS_UNIT_TRAIN_STATE_FOLDER_H_
#define VLM_TESTS_UNIT_TRAIN_STATE_FOLDER_H_

#include <cstdint>
#include <string>

#include "train/parameter_store.h"

namespace vlm::train {

// This rank's files of at most `file_bytes_max` of tensors into `folder`, which exists, as checkpoint::StepWriter
// writes them. Collective. Dies on errors.
void WriteStateFolder(const std::string& folder, int64_t file_bytes_max, ParameterStore* store);
absl::Status LoadStateFolder(const std::string& folder, ParameterStore* store);

}  // namespace vlm::train

#endif  // VLM_TESTS_UNIT_TRAIN_STATE_FOLDER_H_
