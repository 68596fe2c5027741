#include "checkpoint/format/safetensors_folder.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/at_once.h"
#include "checkpoint/format/durable_file.h"
#include "checkpoint/format/json_text.h"

namespace vlm::checkpoint {
namespace {

using nlohmann::json;

constexpr int kIndexDepthMax = 8;
constexpr int kOpenedAtOnce = 4;  // of each the first chunk is read and hashed, for its header

absl::Status IndexError(const std::string& path, std::string_view fault) {
  return absl::InvalidArgumentError(
      absl::StrCat("safetensors index: ", absl::string_view(fault.data(), fault.size()), ": ", path));
}

bool IsPlainName(std::string_view name) {
  return !name.empty() && name.front() != '.' && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

// tensor -> file
absl::StatusOr<std::map<std::string, std::string>> ParseIndex(const std::string& text, const std::string& path) {
  absl::StatusOr<json> index = ParseStrictJson(text, kIndexDepthMax);
  if (!index.ok()) return Annotate(index.status(), absl::StrCat("safetensors index ", path));
  if (!index->is_object() || !index->contains("weight_map") || !(*index)["weight_map"].is_object()) {
    return IndexError(path, "must be an object with a weight_map");
  }
  std::map<std::string, std::string> file_by_tensor;
  for (const auto& [tensor, file] : (*index)["weight_map"].items()) {
    if (!file.is_string() || !IsPlainName(file.get_ref<const std::string&>())) {
      return IndexError(path, absl::StrCat("tensor \"", tensor, "\" must name a file of the same folder"));
    }
    file_by_tensor[tensor] = file.get<std::string>();
  }
  return file_by_tensor;
}

absl::StatusOr<std::string> ReadIndex(FileSystem* files, const std::string& path, const FolderOptions& options) {
  VLM_ASSIGN_OR_RETURN(std::string text, ReadFile(files, path, kIndexBytesMax));
  if (!options.require_sums) return text;
  VLM_ASSIGN_OR_RETURN(const ChunkSums sums, ReadChunkSums(files, path));
  ChunkHasher hasher;
  hasher.Update(std::as_bytes(std::span(text.data(), text.size())));
  const bool matches = hasher.Finish() == sums;
  const auto digest = options.digests.find(path.substr(path.find_last_of('/') + 1));
  if (!matches || (digest != options.digests.end() && digest->second != sums.FileDigest().Hex())) {
    return absl::DataLossError(absl::StrCat("contents differ from those committed: ", path));
  }
  return text;
}

using Readers = std::map<std::string, std::unique_ptr<SafetensorsReader>>;  // by file

absl::Status OpenFiles(FileSystem* files, const std::string& folder, const FolderOptions& options, Readers* readers) {
  std::vector<Readers::value_type*> all;
  for (Readers::value_type& one : *readers) all.push_back(&one);
  return ForEachAtOnce(all.size(), kOpenedAtOnce, [&](size_t i, int) -> absl::Status {
    const std::string& file = all[i]->first;
    const auto digest = options.digests.find(file);
    VLM_ASSIGN_OR_RETURN(
        all[i]->second,
        SafetensorsReader::Open(files, absl::StrCat(folder, "/", file),
                                {options.require_sums, digest == options.digests.end() ? "" : digest->second}));
    return absl::OkStatus();
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFolder>> SafetensorsFolder::Open(FileSystem* files, const std::string& folder,
                                                                           const FolderOptions& options) {
  const std::string single = absl::StrCat(options.stem, ".safetensors");
  const std::string index_path = absl::StrCat(folder, "/", single, ".index.json");
  std::map<std::string, std::string> file_by_tensor;
  Readers readers;
  const absl::StatusOr<std::string> index = ReadIndex(files, index_path, options);
  const bool indexed = index.ok();
  if (indexed) {
    VLM_ASSIGN_OR_RETURN(file_by_tensor, ParseIndex(*index, index_path));
    for (const auto& [tensor, file] : file_by_tensor) readers[file] = nullptr;
  } else if (absl::IsNotFound(index.status()) && !files->Stat(index_path).ok()) {
    readers[single] = nullptr;
  } else {
    return index.status();
  }
  VLM_RETURN_IF_ERROR(OpenFiles(files, folder, options, &readers));
  for (const auto& [tensor, file] : file_by_tensor) {
    if (readers[file]->Find(tensor) == nullptr) {
      return IndexError(index_path, absl::StrCat("names tensor \"", tensor, "\", which is not in ", file));
    }
  }
  std::unique_ptr<SafetensorsFolder> opened(new SafetensorsFolder());
  for (auto& [file, reader] : readers) {
    for (const TensorEntry& tensor : reader->header().tensors) {
      if (indexed && (!file_by_tensor.contains(tensor.name) || file_by_tensor[tensor.name] != file)) {
        return IndexError(index_path, absl::StrCat("does not name tensor \"", tensor.name, "\" of ", file));
      }
      opened->tensors_[tensor.name] = {reader.get(), &tensor};
    }
    opened->files_.push_back(std::move(reader));
  }
  return opened;
}

const TensorEntry* SafetensorsFolder::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second.tensor;
}

absl::Status SafetensorsFolder::Read(std::string_view name, uint64_t offset, std::span<std::byte> out) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("folder holds no such tensor: \"", std::string(name), "\""));
  }
  return found->second.file->Read(*found->second.tensor, offset, out);
}

std::string MakeSafetensorsIndex(const std::map<std::string, std::string>& file_by_tensor, uint64_t total_bytes) {
  const json index = {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", file_by_tensor}};
  return index.dump(2, ' ', /*ensure_ascii=*/true) + "\n";
}

}  // namespace vlm::checkpoint
