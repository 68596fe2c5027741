#include "state_folder.h"

#include <utility>

#include "base/file_system.h"
#include "checkpoint/format/durable_file.h"
#include "checkpoint/format/safetensors_folder.h"
#include "checkpoint/format/safetensors_writer.h"
#include "must.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_state.h"

namespace vlm::train {
namespace {

void WriteOne(const std::string& path, const checkpoint::FileToWrite& file) {
  if (!file.produce_tensor) {
    Must(checkpoint::WriteDurableFile(PosixFileSystem(), path, file.contents).status());
    return;
  }
  auto writer = Must(checkpoint::SafetensorsWriter::Create(PosixFileSystem(), path, file.tensors, file.metadata));
  for (const checkpoint::TensorEntry& tensor : writer->tensors()) {
    Must(file.produce_tensor(tensor, [&](std::span<const std::byte> bytes) { return writer->Append(bytes); }));
  }
  Must(writer->Finish().status());
}

}  // namespace

void WriteStateFolder(const std::string& folder, int64_t file_bytes_max, ParameterStore* store) {
  StateOptions options;
  options.file_bytes_max = file_bytes_max;
  std::vector<FileImage> images = Must(SaveState(PlanState(*store, options), store));
  for (checkpoint::FileToWrite& file : Must(ToFilesToWrite(std::move(images)))) {
    WriteOne(folder + "/" + file.name, file);
    file = checkpoint::FileToWrite();
  }
}

absl::Status LoadStateFolder(const std::string& folder, ParameterStore* store) {
  VLM_ASSIGN_OR_RETURN(const auto weights, checkpoint::SafetensorsFolder::Open(PosixFileSystem(), folder));
  VLM_ASSIGN_OR_RETURN(const auto optimizer,
                       checkpoint::SafetensorsFolder::Open(PosixFileSystem(), folder, {.stem = "optimizer"}));
  VLM_ASSIGN_OR_RETURN(const std::string json, ReadFile(PosixFileSystem(), folder + "/optimizer.json", 1 << 20));
  return LoadState(NewFolderSource(weights.get()).get(), NewFolderSource(optimizer.get()).get(), json, store);
}

}  // namespace vlm::train
