#include "checkpoint/format/safetensors_writer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vlm::checkpoint {

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    FileSystem* files, std::string path, std::vector<TensorSpec> tensors, std::map<std::string, std::string> metadata) {
  VLM_ASSIGN_OR_RETURN(SafetensorsHeader header, PlanSafetensors(std::move(tensors), std::move(metadata)));
  VLM_ASSIGN_OR_RETURN(std::unique_ptr<DurableFileWriter> file,
                       DurableFileWriter::Create(files, std::move(path), header.data_begin + header.data_bytes()));
  VLM_RETURN_IF_ERROR(file->Append(SerializeSafetensorsHeader(header)));
  return std::unique_ptr<SafetensorsWriter>(new SafetensorsWriter(std::move(header), std::move(file)));
}

absl::Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  if (bytes.size() > header_.data_bytes() - appended_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors: more bytes appended than the tensors hold: ",
                                                   appended_bytes_ + bytes.size(), " of ", header_.data_bytes()));
  }
  VLM_RETURN_IF_ERROR(file_->Append(bytes));
  appended_bytes_ += bytes.size();
  return absl::OkStatus();
}

absl::StatusOr<WrittenFile> SafetensorsWriter::Finish() {
  if (appended_bytes_ < header_.data_bytes()) {
    const auto lacking = std::find_if(header_.tensors.begin(), header_.tensors.end(),
                                      [&](const TensorEntry& tensor) { return tensor.end > appended_bytes_; });
    return absl::FailedPreconditionError(absl::StrCat("safetensors: tensor lacks bytes: \"", lacking->name, "\", ",
                                                      appended_bytes_, " of ", header_.data_bytes(), " appended"));
  }
  return file_->Finish();
}

}  // namespace vlm::checkpoint
