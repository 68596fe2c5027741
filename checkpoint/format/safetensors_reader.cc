#include "checkpoint/format/safetensors_reader.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "checkpoint/format/durable_file.h"

namespace vlm::checkpoint {

absl::StatusOr<std::unique_ptr<SafetensorsReader>> SafetensorsReader::Open(FileSystem* files, const std::string& path,
                                                                           const ReadOptions& options) {
  std::unique_ptr<SafetensorsReader> reader(new SafetensorsReader());
  reader->path_ = path;
  VLM_ASSIGN_OR_RETURN(reader->file_, files->Open(path));
  const uint64_t file_bytes = reader->file_->size();
  if (options.require_sums) {
    VLM_ASSIGN_OR_RETURN(reader->sums_, ReadChunkSums(files, path));
    if (reader->sums_->bytes != file_bytes) {
      return absl::DataLossError(
          absl::StrCat("file has ", file_bytes, " bytes, its sums were made for ", reader->sums_->bytes, ": ", path));
    }
    if (!options.digest.empty() && reader->sums_->FileDigest().Hex() != options.digest) {
      return absl::DataLossError(absl::StrCat("sums do not belong to the digest ", options.digest, ": ", path));
    }
    MutexLock lock(&reader->mutex_);
    reader->verified_.resize(reader->sums_->chunks.size());
  }
  std::string first(std::min<uint64_t>(8, file_bytes), '\0');
  VLM_RETURN_IF_ERROR(reader->ReadVerified(0, std::as_writable_bytes(std::span(first.data(), first.size()))));
  const absl::StatusOr<uint64_t> length = ParseHeaderLength(first, file_bytes);
  if (!length.ok()) return Annotate(length.status(), path);
  std::string text(*length, '\0');
  VLM_RETURN_IF_ERROR(reader->ReadVerified(8, std::as_writable_bytes(std::span(text.data(), text.size()))));
  absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(text, file_bytes);
  if (!header.ok()) return Annotate(header.status(), path);
  reader->header_ = *std::move(header);
  for (size_t i = 0; i < reader->header_.tensors.size(); ++i) reader->index_[reader->header_.tensors[i].name] = i;
  return reader;
}

const TensorEntry* SafetensorsReader::Find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.tensors[found->second];
}

absl::Status SafetensorsReader::Read(const TensorEntry& tensor, uint64_t offset, std::span<std::byte> out) const {
  if (offset > tensor.bytes() || out.size() > tensor.bytes() - offset) {
    return absl::OutOfRangeError(absl::StrCat("read past the end of tensor \"", tensor.name, "\": ", out.size(),
                                              " bytes at ", offset, " of ", tensor.bytes()));
  }
  return ReadVerified(header_.data_begin + tensor.begin + offset, out);
}

absl::Status SafetensorsReader::ReadVerified(uint64_t offset, std::span<std::byte> out) const {
  if (!sums_.has_value()) return file_->ReadAt(offset, out);
  std::vector<std::byte> buffer;
  while (!out.empty()) {
    const uint64_t chunk = offset / kChunkBytes, inside = offset % kChunkBytes;
    const size_t taken = std::min<uint64_t>(out.size(), kChunkBytes - inside);
    if (IsVerified(chunk)) {
      VLM_RETURN_IF_ERROR(file_->ReadAt(offset, out.first(taken)));
    } else {
      buffer.resize(std::min(kChunkBytes, sums_->bytes - chunk * kChunkBytes));
      VLM_RETURN_IF_ERROR(ReadChunk(chunk, buffer));
      std::copy_n(buffer.begin() + static_cast<ptrdiff_t>(inside), taken, out.begin());
    }
    offset += taken;
    out = out.subspan(taken);
  }
  return absl::OkStatus();
}

bool SafetensorsReader::IsVerified(uint64_t chunk) const {
  MutexLock lock(&mutex_);
  return verified_[chunk];
}

absl::Status SafetensorsReader::ReadChunk(uint64_t chunk, std::span<std::byte> buffer) const {
  VLM_RETURN_IF_ERROR(file_->ReadAt(chunk * kChunkBytes, buffer));
  if (!sums_.has_value() || IsVerified(chunk)) return absl::OkStatus();
  if (Sha256Of(buffer) != sums_->chunks[chunk]) {
    return absl::DataLossError(
        absl::StrCat("contents differ from those committed in ", ChunkName(chunk, sums_->bytes), " of ", path_));
  }
  MutexLock lock(&mutex_);
  verified_[chunk] = true;
  return absl::OkStatus();
}

}  // namespace vlm::checkpoint
