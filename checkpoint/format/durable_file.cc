#include "checkpoint/format/durable_file.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/crash_point.h"

namespace vlm::checkpoint {
namespace {

// Hashed, then appended while it is in the processor's cache; a file that writes behind its caller writes one piece
// while the next is hashed.
constexpr size_t kPieceBytes = 1 << 20;

std::string TemporaryPath(const std::string& path) { return absl::StrCat(path, ".tmp"); }

// Writes and syncs `<path>.tmp`.
absl::Status WriteTemporary(FileSystem* files, const std::string& path, std::string_view contents) {
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files->Create(TemporaryPath(path)));
  VLM_RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(contents.data(), contents.size()))));
  VLM_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

// What is wrong with a file, as far as its size and its sums tell; its sums when they can be used.
struct Look {
  std::vector<FileDamage> damages;
  bool readable = false;  // exists with the committed size
  std::optional<ChunkSums> sums;
};

absl::StatusOr<Look> LookAt(FileSystem* files, const std::string& folder, const FileClaim& claim) {
  Look look;
  const std::string path = absl::StrCat(folder, "/", claim.name);
  const absl::StatusOr<FileInfo> info = files->Stat(path);
  if (absl::IsNotFound(info.status())) {
    look.damages.push_back({claim.name, -1, "the file is missing"});
    return look;
  }
  VLM_RETURN_IF_ERROR(info.status());
  if (info->is_directory || info->is_symlink) {
    look.damages.push_back({claim.name, -1, "is no plain file, but a folder or a symbolic link"});
    return look;
  }
  if (info->bytes != claim.bytes) {
    look.damages.push_back(
        {claim.name, -1, absl::StrCat("has ", info->bytes, " bytes, was reported with ", claim.bytes)});
    return look;
  }
  look.readable = true;
  absl::StatusOr<ChunkSums> sums = ReadChunkSums(files, path);
  if (absl::IsNotFound(sums.status()) || absl::IsDataLoss(sums.status())) {
    look.damages.push_back({SumPath(claim.name), -1, std::string(sums.status().message())});
    return look;
  }
  VLM_RETURN_IF_ERROR(sums.status());
  if (sums->bytes != claim.bytes || sums->FileDigest().Hex() != claim.digest) {
    look.damages.push_back({SumPath(claim.name), -1, "the sums belong to other contents than was reported"});
    return look;
  }
  look.sums = *std::move(sums);
  return look;
}

// Reads every chunk of a file that has its committed size.
absl::Status VerifyContents(FileSystem* files, const std::string& folder, const FileClaim& claim, Look* look) {
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, files->Open(absl::StrCat(folder, "/", claim.name)));
  file->DropCache();
  std::vector<std::byte> buffer(std::min(kChunkBytes, claim.bytes));
  ChunkHasher hasher;
  bool unread = false;
  for (uint64_t offset = 0, chunk = 0; offset < claim.bytes; offset += kChunkBytes, ++chunk) {
    const std::span<std::byte> bytes = std::span(buffer).first(std::min(kChunkBytes, claim.bytes - offset));
    const absl::Status read = file->ReadAt(offset, bytes);
    if (!read.ok()) {
      look->damages.push_back(
          {claim.name, static_cast<int64_t>(chunk), absl::StrCat("cannot be read: ", read.message())});
      unread = true;
      continue;
    }
    hasher.Update(bytes);
    if (look->sums.has_value() && Sha256Of(bytes) != look->sums->chunks[chunk]) {
      look->damages.push_back({claim.name, static_cast<int64_t>(chunk), "the contents differ from those committed"});
    }
  }
  // Without usable sums the digest still tells whether the file is whole, though not which chunk is not.
  if (!look->sums.has_value() && !unread && hasher.Finish().FileDigest().Hex() != claim.digest) {
    look->damages.push_back({claim.name, -1, "the contents differ from those committed"});
  }
  return absl::OkStatus();
}

}  // namespace

std::string SumPath(const std::string& path) { return path + std::string(kSumSuffix); }

absl::StatusOr<std::unique_ptr<DurableFileWriter>> DurableFileWriter::Create(FileSystem* files, std::string path,
                                                                             uint64_t bytes_expected) {
  for (const std::string& taken : {path, SumPath(path)}) {
    if (files->Stat(taken).ok())
      return absl::AlreadyExistsError(absl::StrCat("a path is never written twice: ", taken));
  }
  std::unique_ptr<DurableFileWriter> writer(new DurableFileWriter(files, std::move(path)));
  VLM_ASSIGN_OR_RETURN(writer->file_, files->Create(TemporaryPath(writer->path_)));
  VLM_RETURN_IF_ERROR(writer->file_->Reserve(bytes_expected));
  return writer;
}

DurableFileWriter::~DurableFileWriter() {
  if (finished_ || file_ == nullptr) return;
  // Best effort: what stays is named .tmp, or goes with the step's folder.
  files_->Remove(TemporaryPath(path_)).IgnoreError();
  files_->Remove(TemporaryPath(SumPath(path_))).IgnoreError();
}

absl::Status DurableFileWriter::Append(std::span<const std::byte> bytes) {
  do {
    const std::span<const std::byte> piece = bytes.first(std::min(bytes.size(), kPieceBytes));
    hasher_.Update(piece);
    VLM_RETURN_IF_ERROR(file_->Append(piece));
    bytes = bytes.subspan(piece.size());
  } while (!bytes.empty());
  return absl::OkStatus();
}

absl::Status DurableFileWriter::Publish(const ChunkSums& sums) {
  CrashPoint("save.file_written");
  VLM_RETURN_IF_ERROR(file_->Sync());
  VLM_RETURN_IF_ERROR(file_->Close());
  const std::string sum_path = SumPath(path_);
  VLM_RETURN_IF_ERROR(WriteTemporary(files_, sum_path, SerializeChunkSums(sums)));
  VLM_RETURN_IF_ERROR(files_->Rename(TemporaryPath(sum_path), sum_path));
  VLM_RETURN_IF_ERROR(files_->Rename(TemporaryPath(path_), path_));
  CrashPoint("save.file_renamed");
  return files_->SyncDirectory(ParentPath(path_));
}

absl::StatusOr<WrittenFile> DurableFileWriter::Finish() {
  const ChunkSums sums = hasher_.Finish();
  const absl::Status published = Publish(sums);
  if (!published.ok()) {
    files_->Remove(SumPath(path_)).IgnoreError();
    files_->Remove(path_).IgnoreError();
    return published;
  }
  finished_ = true;
  return WrittenFile{sums.bytes, sums.FileDigest().Hex()};
}

absl::StatusOr<WrittenFile> WriteDurableFile(FileSystem* files, const std::string& path, std::string_view contents) {
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<DurableFileWriter> writer,
                       DurableFileWriter::Create(files, path, contents.size()));
  VLM_RETURN_IF_ERROR(writer->Append(contents));
  return writer->Finish();
}

absl::StatusOr<WrittenFile> AddSums(FileSystem* files, const std::string& path) {
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, files->Open(path));
  std::vector<std::byte> buffer(std::min(kChunkBytes, file->size()));
  ChunkHasher hasher;
  for (uint64_t offset = 0; offset < file->size(); offset += kChunkBytes) {
    const std::span<std::byte> bytes = std::span(buffer).first(std::min(kChunkBytes, file->size() - offset));
    VLM_RETURN_IF_ERROR(file->ReadAt(offset, bytes));
    hasher.Update(bytes);
  }
  const ChunkSums sums = hasher.Finish();
  VLM_RETURN_IF_ERROR(WriteFileDurably(files, SumPath(path), SerializeChunkSums(sums)));
  return WrittenFile{sums.bytes, sums.FileDigest().Hex()};
}

absl::StatusOr<ChunkSums> ReadChunkSums(FileSystem* files, const std::string& path) {
  absl::StatusOr<std::string> contents = ReadFile(files, SumPath(path), kSumFileBytesMax);
  if (absl::IsNotFound(contents.status()))
    return absl::NotFoundError(absl::StrCat("sum file is missing: ", SumPath(path)));
  if (absl::IsOutOfRange(contents.status())) return absl::DataLossError(contents.status().message());
  VLM_RETURN_IF_ERROR(contents.status());
  absl::StatusOr<ChunkSums> sums = ParseChunkSums(*contents);
  if (!sums.ok()) return absl::DataLossError(absl::StrCat(sums.status().message(), ": ", SumPath(path)));
  return sums;
}

absl::StatusOr<std::string> ReadCommittedFile(FileSystem* files, const std::string& path, uint64_t bytes_max) {
  const absl::StatusOr<ChunkSums> sums = ReadChunkSums(files, path);
  if (absl::IsNotFound(sums.status())) return absl::DataLossError(sums.status().message());
  VLM_RETURN_IF_ERROR(sums.status());
  if (sums->bytes > bytes_max) {
    return absl::OutOfRangeError(absl::StrCat("committed file has more than ", bytes_max, " bytes: ", path));
  }
  const absl::StatusOr<FileInfo> info = files->Stat(path);
  if (absl::IsNotFound(info.status())) return absl::DataLossError(absl::StrCat("committed file is missing: ", path));
  VLM_RETURN_IF_ERROR(info.status());
  if (info->bytes != sums->bytes) {
    return absl::DataLossError(
        absl::StrCat("file has ", info->bytes, " bytes, its sums were made for ", sums->bytes, ": ", path));
  }
  VLM_ASSIGN_OR_RETURN(std::string text, ReadFile(files, path, sums->bytes));
  for (uint64_t chunk = 0; chunk < sums->chunks.size(); ++chunk) {
    if (Sha256Of(std::string_view(text).substr(chunk * kChunkBytes, kChunkBytes)) == sums->chunks[chunk]) continue;
    return absl::DataLossError(
        absl::StrCat("contents differ from those committed in ", ChunkName(chunk, sums->bytes), " of ", path));
  }
  return text;
}

absl::StatusOr<std::vector<FileDamage>> CheckFiles(FileSystem* files, const std::string& folder,
                                                   std::span<const FileClaim> claims) {
  std::vector<FileDamage> damages;
  for (const FileClaim& claim : claims) {
    VLM_ASSIGN_OR_RETURN(const Look look, LookAt(files, folder, claim));
    damages.insert(damages.end(), look.damages.begin(), look.damages.end());
  }
  return damages;
}

absl::StatusOr<std::vector<FileDamage>> VerifyFiles(FileSystem* files, const std::string& folder,
                                                    std::span<const FileClaim> claims) {
  std::vector<FileDamage> damages;
  for (const FileClaim& claim : claims) {
    VLM_ASSIGN_OR_RETURN(Look look, LookAt(files, folder, claim));
    if (look.readable) VLM_RETURN_IF_ERROR(VerifyContents(files, folder, claim, &look));
    damages.insert(damages.end(), look.damages.begin(), look.damages.end());
  }
  return damages;
}

}  // namespace vlm::checkpoint
