#include "cli/export_folder.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/format/safetensors_folder.h"

namespace vlm::cli {
namespace {

using checkpoint::FileClaim;

constexpr std::array<std::string_view, 13> kSideFiles = {"added_tokens.json",
                                                         "chat_template.jinja",
                                                         "chat_template.json",
                                                         "config.json",
                                                         "generation_config.json",
                                                         "merges.txt",
                                                         "model.safetensors.index.json",
                                                         "preprocessor_config.json",
                                                         "processor_config.json",
                                                         "special_tokens_map.json",
                                                         "tokenizer.json",
                                                         "tokenizer_config.json",
                                                         "vocab.json"};
constexpr std::string_view kWeightsSuffix = ".safetensors";
constexpr std::string_view kOptimizerPrefix = "optimizer";

bool IsWeights(std::string_view name) {
  return name.ends_with(kWeightsSuffix) && !name.starts_with(kOptimizerPrefix) &&
         name.find('/') == std::string_view::npos;
}

// Removes the folder it was given unless it is released.
class Scaffold {
 public:
  Scaffold(FileSystem* files, std::string path) : files_(files), path_(std::move(path)) {}
  ~Scaffold() {
    // Best effort: what cannot be removed has a name that says it is unfinished.
    if (!path_.empty()) RemoveTree(files_, path_).IgnoreError();
  }
  void Release() { path_.clear(); }

 private:
  FileSystem* const files_;
  std::string path_;
};

absl::Status CopyVerified(FileSystem* files, const std::string& from, const FileClaim& claim, const std::string& to) {
  const std::string source = absl::StrCat(from, "/", claim.name);
  absl::StatusOr<checkpoint::ChunkSums> read_sums = checkpoint::ReadChunkSums(files, source);
  if (absl::IsNotFound(read_sums.status())) return absl::DataLossError(read_sums.status().message());
  if (!read_sums.ok()) return read_sums.status();
  const checkpoint::ChunkSums& sums = *read_sums;
  if (sums.FileDigest().Hex() != claim.digest || sums.bytes != claim.bytes) {
    return absl::DataLossError("the checksums do not belong to what the catalog says: " + source);
  }
  absl::StatusOr<std::unique_ptr<ReadableFile>> opened = files->Open(source);
  if (absl::IsNotFound(opened.status())) return absl::DataLossError("the file is missing: " + source);
  if (!opened.ok()) return opened.status();
  const std::unique_ptr<ReadableFile> in = *std::move(opened);
  if (in->size() != claim.bytes) {
    return absl::DataLossError(absl::StrCat("the file has another size than was committed: ", source, ", ", in->size(),
                                            " bytes instead of ", claim.bytes));
  }
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> out, files->Create(absl::StrCat(to, "/", claim.name)));
  VLM_RETURN_IF_ERROR(out->Reserve(claim.bytes));
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(claim.bytes, checkpoint::kChunkBytes)));
  for (uint64_t chunk = 0; chunk < sums.chunks.size(); ++chunk) {
    const uint64_t offset = chunk * checkpoint::kChunkBytes;
    const std::span<std::byte> bytes(buffer.data(),
                                     static_cast<size_t>(std::min(checkpoint::kChunkBytes, claim.bytes - offset)));
    VLM_RETURN_IF_ERROR(in->ReadAt(offset, bytes));
    if (Sha256Of(bytes) != sums.chunks[chunk]) {
      return absl::DataLossError(absl::StrCat("the file is not as it was committed: ", source, ", chunk ", chunk));
    }
    VLM_RETURN_IF_ERROR(out->Append(bytes));
  }
  VLM_RETURN_IF_ERROR(out->Sync());
  return out->Close();
}

}  // namespace

absl::StatusOr<std::vector<FileClaim>> ModelFiles(const std::vector<FileClaim>& files) {
  std::vector<FileClaim> model;
  bool config = false, weights = false;
  for (const FileClaim& file : files) {
    const bool side = std::find(kSideFiles.begin(), kSideFiles.end(), file.name) != kSideFiles.end();
    if (!side && !IsWeights(file.name)) continue;
    config = config || file.name == "config.json";
    weights = weights || IsWeights(file.name);
    model.push_back(file);
  }
  if (!config || !weights) {
    return absl::FailedPreconditionError("the checkpoint holds no model: configuration or weights are missing");
  }
  std::sort(model.begin(), model.end(), [](const FileClaim& a, const FileClaim& b) { return a.name < b.name; });
  return model;
}

absl::StatusOr<Exported> ExportFolder(FileSystem* file_system, const std::string& from,
                                      const std::vector<FileClaim>& files, const std::string& to) {
  std::string target = to;
  while (target.size() > 1 && target.back() == '/') target.pop_back();
  const absl::Status there = file_system->Stat(target).status();
  if (there.ok()) return absl::AlreadyExistsError("the folder exists already; name a new one: " + target);
  if (!absl::IsNotFound(there)) return there;
  const std::string temporary = target + ".unfinished";
  VLM_RETURN_IF_ERROR(Annotate(file_system->MakeDirectory(temporary), "cannot make the folder"));
  Scaffold scaffold(file_system, temporary);
  Exported exported;
  for (const FileClaim& file : files) {
    VLM_RETURN_IF_ERROR(CopyVerified(file_system, from, file, temporary));
    ++exported.files;
    exported.bytes += file.bytes;
  }
  checkpoint::FolderOptions plain;
  plain.require_sums = false;
  VLM_RETURN_IF_ERROR(checkpoint::SafetensorsFolder::Open(file_system, temporary, plain).status());
  VLM_RETURN_IF_ERROR(file_system->SyncDirectory(temporary));
  VLM_RETURN_IF_ERROR(file_system->Rename(temporary, target));
  scaffold.Release();
  VLM_RETURN_IF_ERROR(file_system->SyncDirectory(ParentPath(target)));
  return exported;
}

}  // namespace vlm::cli
