// A readable file that is a text in memory.
#ifndef VLM_TESTS_FUZZ_MEMORY_FILE_H_
#define VLM_TESTS_FUZZ_MEMORY_FILE_H_

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/file_system.h"

namespace vlm::fuzz {

class MemoryFile final : public ReadableFile {
 public:
  explicit MemoryFile(std::string contents) : contents_(std::move(contents)) {}
  uint64_t size() const override { return contents_.size(); }
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > contents_.size() || out.size() > contents_.size() - offset) {
      return absl::OutOfRangeError("read past the end of the file");
    }
    if (!out.empty()) std::memcpy(out.data(), contents_.data() + offset, out.size());
    return absl::OkStatus();
  }
  void DropCache() const override {}

 private:
  const std::string contents_;
};

// Writes a new file of a file system that has room.
inline void PutFile(FileSystem* files, const std::string& path, std::string_view contents) {
  absl::StatusOr<std::unique_ptr<WritableFile>> file = files->Create(path);
  VLM_CHECK(file.ok(), file.status().ToString());
  const absl::Status written = (*file)->Append(std::as_bytes(std::span(contents.data(), contents.size())));
  VLM_CHECK(written.ok(), written.ToString());
}

}  // namespace vlm::fuzz

#endif  // VLM_TESTS_FUZZ_MEMORY_FILE_H_
