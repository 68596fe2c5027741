// Writes the files of one rank's part of a save, hashed and durable, several at a time.
#ifndef VLM_CHECKPOINT_FORMAT_WRITE_FILES_H_
#define VLM_CHECKPOINT_FORMAT_WRITE_FILES_H_

#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "checkpoint/format/durable_file.h"
#include "checkpoint/format/safetensors.h"

namespace vlm::checkpoint {

// Takes the next bytes of a file; an error must be passed on by the producer.
using ByteSink = std::function<absl::Status(std::span<const std::byte>)>;

// One file of a save. Either a safetensors file (`tensors` and `produce_tensor`) or plain bytes (`contents`).
// Producers run later, those of several files at a time: they own, or share, a snapshot that nothing changes.
struct FileToWrite {
  std::string name;  // relative to the step's folder; one file, one rank
  std::vector<TensorSpec> tensors;
  std::map<std::string, std::string> metadata;
  // Appends exactly tensor.bytes() bytes. Called once per tensor, in the file's order.
  std::function<absl::Status(const TensorEntry& tensor, const ByteSink& sink)> produce_tensor;  // empty: plain
  std::string contents;
};

struct WriteFilesOptions {
  int at_once = 2;  // the disk has work while one file is synced and the next begins
  // Called whenever some MiB were written; calls never overlap. May be empty.
  std::function<void()> advance = nullptr;
  // Asked before each file; true: it is not begun, CANCELLED. May be empty.
  std::function<bool()> stopping = nullptr;
};

// Into `folder`, which exists. Blocks until all are durable. Claims in the order of `to_write`, each of which is
// emptied once it is durable, so that its snapshot's memory goes. After an error no further file is begun; the error is
// that of the first file that has one.
absl::StatusOr<std::vector<FileClaim>> WriteFiles(FileSystem* files, const std::string& folder,
                                                  std::vector<FileToWrite>* to_write, const WriteFilesOptions& options);

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_FORMAT_WRITE_FILES_H_
