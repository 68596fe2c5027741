#include "checkpoint/format/write_files.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/at_once.h"
#include "base/crash_point.h"
#include "base/mutex.h"
#include "checkpoint/format/safetensors_writer.h"

namespace vlm::checkpoint {
namespace {

// Progress is told after each: also a disk of a few MB/s writes it long before a rank is taken for hung.
constexpr size_t kPieceBytes = 16 << 20;

// Folders between the step's own and a file. Not the step's own: the service makes it, and removes it when the attempt
// is replaced, and a rank that has slept over that must not make it again.
absl::Status MakeFoldersBelow(FileSystem* files, const std::string& folder, const std::string& below) {
  if (below == folder) return absl::OkStatus();
  const std::string parent = ParentPath(below);
  VLM_RETURN_IF_ERROR(MakeFoldersBelow(files, folder, parent));
  const absl::Status made = files->MakeDirectory(below);
  if (!made.ok() && !absl::IsAlreadyExists(made)) return made;
  return files->SyncDirectory(parent);  // also one that another rank has made and not synced yet
}

class FileWriter {
 public:
  FileWriter(FileSystem* files, const std::string& folder, const WriteFilesOptions& options)
      : files_(files), folder_(folder), options_(options) {}

  absl::StatusOr<FileClaim> Write(const FileToWrite& file) {
    if (options_.stopping && options_.stopping()) {
      return absl::CancelledError("the writer was closed before the save was written");
    }
    const std::string path = absl::StrCat(folder_, "/", file.name);
    VLM_RETURN_IF_ERROR(MakeFoldersBelow(files_, folder_, ParentPath(path)));
    VLM_ASSIGN_OR_RETURN(const WrittenFile written,
                         file.produce_tensor ? WriteTensors(file, path) : WritePlain(file.contents, path));
    Advance();
    return FileClaim{file.name, written.bytes, written.digest};
  }

 private:
  absl::StatusOr<WrittenFile> WriteTensors(const FileToWrite& file, const std::string& path) {
    VLM_ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> writer,
                         SafetensorsWriter::Create(files_, path, file.tensors, file.metadata));
    for (const TensorEntry& tensor : writer->tensors()) {
      uint64_t produced = 0;
      VLM_RETURN_IF_ERROR(file.produce_tensor(tensor, [&](std::span<const std::byte> bytes) {
        produced += bytes.size();
        return Append(bytes, writer.get());
      }));
      if (produced != tensor.bytes()) {
        return absl::InternalError(absl::StrCat("producer of tensor \"", tensor.name, "\" gave ", produced,
                                                " bytes of ", tensor.bytes(), ": ", path));
      }
    }
    return writer->Finish();
  }

  absl::StatusOr<WrittenFile> WritePlain(const std::string& contents, const std::string& path) {
    VLM_ASSIGN_OR_RETURN(const std::unique_ptr<DurableFileWriter> writer,
                         DurableFileWriter::Create(files_, path, contents.size()));
    VLM_RETURN_IF_ERROR(Append(std::as_bytes(std::span(contents.data(), contents.size())), writer.get()));
    return writer->Finish();
  }

  template <typename Writer>
  absl::Status Append(std::span<const std::byte> bytes, Writer* writer) {
    while (!bytes.empty()) {
      const std::span<const std::byte> piece = bytes.first(std::min(bytes.size(), kPieceBytes));
      VLM_RETURN_IF_ERROR(writer->Append(piece));
      bytes = bytes.subspan(piece.size());
      Advance();
    }
    return absl::OkStatus();
  }

  void Advance() {
    if (!options_.advance) return;
    MutexLock lock(&advance_mutex_);
    options_.advance();
  }

  FileSystem* const files_;
  const std::string& folder_;
  const WriteFilesOptions& options_;
  Mutex advance_mutex_;  // held over `advance`, whose calls may not overlap; nothing is taken before it
};

}  // namespace

absl::StatusOr<std::vector<FileClaim>> WriteFiles(FileSystem* files, const std::string& folder,
                                                  std::vector<FileToWrite>* to_write,
                                                  const WriteFilesOptions& options) {
  FileWriter writer(files, folder, options);
  std::vector<FileClaim> claims(to_write->size());
  VLM_RETURN_IF_ERROR(ForEachAtOnce(to_write->size(), options.at_once, [&](size_t i, int) -> absl::Status {
    VLM_ASSIGN_OR_RETURN(claims[i], writer.Write((*to_write)[i]));
    (*to_write)[i] = FileToWrite();
    CrashPoint("save.file_done");
    return absl::OkStatus();
  }));
  return claims;
}

}  // namespace vlm::checkpoint
