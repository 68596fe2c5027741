// A folder of safetensors files under one index, as Hugging Face lays models out.
#ifndef VLM_CHECKPOINT_FORMAT_SAFETENSORS_FOLDER_H_
#define VLM_CHECKPOINT_FORMAT_SAFETENSORS_FOLDER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "checkpoint/format/safetensors_reader.h"

namespace vlm::checkpoint {

struct FolderOptions {
  std::string stem = "model";  // "<stem>.safetensors.index.json", else "<stem>.safetensors"
  bool require_sums = true;
  std::map<std::string, std::string> digests = {};  // by file name, from the catalog; others are not checked
};

constexpr uint64_t kIndexBytesMax = 64 << 20;

// Thread-safe after Open. All files stay open.
class SafetensorsFolder {
 public:
  // Errors as SafetensorsReader::Open; INVALID_ARGUMENT too for an index that is no such JSON, names a file
  // outside the folder, misses a tensor its files hold, or names one they lack.
  static absl::StatusOr<std::unique_ptr<SafetensorsFolder>> Open(FileSystem* files, const std::string& folder,
                                                                 const FolderOptions& options = {});

  struct Location {
    const SafetensorsReader* file;
    const TensorEntry* tensor;
  };
  const std::map<std::string, Location, std::less<>>& tensors() const { return tensors_; }
  const TensorEntry* Find(std::string_view name) const;  // null when absent
  // NOT_FOUND for an unknown name; else as SafetensorsReader::Read.
  absl::Status Read(std::string_view name, uint64_t offset, std::span<std::byte> out) const;
  const std::vector<std::unique_ptr<SafetensorsReader>>& files() const { return files_; }

 private:
  std::vector<std::unique_ptr<SafetensorsReader>> files_;
  std::map<std::string, Location, std::less<>> tensors_;
};

// The text of an index: {"metadata": {"total_size": N}, "weight_map": {name: file}}, keys sorted, two spaces.
std::string MakeSafetensorsIndex(const std::map<std::string, std::string>& file_by_tensor, uint64_t total_bytes);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_FORMAT_SAFETENSORS_FOLDER_H_
