// Training states to and from the checkpoint library's files.
#ifndef VLM_TRAIN_CHECKPOINT_FILES_H_
#define VLM_TRAIN_CHECKPOINT_FILES_H_

#include <memory>
#include <vector>

#include "checkpoint/format/safetensors_folder.h"
#include "checkpoint/format/write_files.h"
#include "train/checkpoint_state.h"

namespace vlm::train {

// What SaveState copied out as files for checkpoint::StepWriter; the producers share the images, so the memory is freed
// with the last of them. Weights carry the metadata {"format": "pt"}. INTERNAL for an image with an unknown type.
absl::StatusOr<std::vector<checkpoint::FileToWrite>> ToFilesToWrite(std::vector<FileImage> images);

// Bytes the images hold: Save::snapshot_bytes.
uint64_t ImageBytes(const std::vector<FileImage>& images);

// `folder` outlives the source. Open the weights with FolderOptions::stem "model", the optimizer's with "optimizer".
std::unique_ptr<TensorSource> NewFolderSource(const checkpoint::SafetensorsFolder* folder);

}  // namespace vlm::train

#endif  // VLM_TRAIN_CHECKPOINT_FILES_H_
