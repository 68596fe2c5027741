// Streams tensors into a durable, hashed safetensors file.
#ifndef VLM_CHECKPOINT_FORMAT_SAFETENSORS_WRITER_H_
#define VLM_CHECKPOINT_FORMAT_SAFETENSORS_WRITER_H_

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "checkpoint/format/durable_file.h"
#include "checkpoint/format/safetensors.h"

namespace vlm::checkpoint {

// Not thread-safe. Memory in use is bounded by the header; bytes go straight to the file.
class SafetensorsWriter {
 public:
  // Errors: those of PlanSafetensors and DurableFileWriter::Create. Hugging Face readers want the metadata
  // {"format": "pt"}.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(FileSystem* files, std::string path,
                                                                   std::vector<TensorSpec> tensors,
                                                                   std::map<std::string, std::string> metadata);

  // The tensors in the order in which their bytes must be appended.
  const std::vector<TensorEntry>& tensors() const { return header_.tensors; }

  // The next bytes of the data, cut anywhere. INVALID_ARGUMENT when they are more than the tensors hold.
  absl::Status Append(std::span<const std::byte> bytes);

  // FAILED_PRECONDITION, naming the first tensor that lacks bytes, unless all were appended.
  absl::StatusOr<WrittenFile> Finish();

 private:
  SafetensorsWriter(SafetensorsHeader header, std::unique_ptr<DurableFileWriter> file)
      : header_(std::move(header)), file_(std::move(file)) {}

  const SafetensorsHeader header_;
  const std::unique_ptr<DurableFileWriter> file_;
  uint64_t appended_bytes_ = 0;
};

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_FORMAT_SAFETENSORS_WRITER_H_
