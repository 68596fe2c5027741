#include "state_folder.h"

#include <utility>

#include "base/file_system.h"
#include "checkpoint/format/safetensors_folder.h"
#include "checkpoint/format/write_files.h"
#include "must.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_state.h"

namespace vlm::train {

void WriteStateFolder(const std::string& folder, int64_t file_bytes_max, ParameterStore* store) {
  StateOptions options;
  options.file_bytes_max = file_bytes_max;
  std::vector<FileImage> images = Must(SaveState(PlanState(*store, options), store));
  std::vector<checkpoint::FileToWrite> files = Must(ToFilesToWrite(std::move(images)));
  Must(checkpoint::WriteFiles(PosixFileSystem(), folder, &files, {}));
}

absl::Status LoadStateFolder(const std::string& folder, ParameterStore* store) {
  VLM_ASSIGN_OR_RETURN(const auto weights, checkpoint::SafetensorsFolder::Open(PosixFileSystem(), folder));
  VLM_ASSIGN_OR_RETURN(const auto optimizer,
                       checkpoint::SafetensorsFolder::Open(PosixFileSystem(), folder, {.stem = "optimizer"}));
  VLM_ASSIGN_OR_RETURN(const std::string json, ReadFile(PosixFileSystem(), folder + "/optimizer.json", 1 << 20));
  return LoadState(NewFolderSource(weights.get()).get(), NewFolderSource(optimizer.get()).get(), json, store);
}

}  // namespace vlm::train
