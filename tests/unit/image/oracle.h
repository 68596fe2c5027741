// Runs the Python side of a comparison and reads what it left.
#ifndef VLM_TESTS_UNIT_IMAGE_ORACLE_H_
#define VLM_TESTS_UNIT_IMAGE_ORACLE_H_

#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "data/image/image.h"

namespace vlm::data {

// An empty folder of this test's own.
std::string EmptyFolder(const std::string& name);

// Runs tests/unit/image/<script> with `mode` and `folder`; true when it succeeded. The script's messages go to the
// test's output.
[[nodiscard]] bool RunOracle(const std::string& script, const std::string& mode, const std::string& folder);

// Whole files of the folder; a missing file fails the test and gives nothing.
std::string Contents(const std::string& path);
nlohmann::json Cases(const std::string& folder);  // cases.json
Image RawImage(const std::string& path, int width, int height);
void WriteContents(const std::string& path, std::string_view contents);

inline std::span<const std::byte> BytesOf(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// A file in memory, to be written and then read.
class MemoryFile : public WritableFile, public ReadableFile {
 public:
  explicit MemoryFile(std::string contents = "") : contents_(std::move(contents)) {}
  absl::Status Append(std::span<const std::byte> bytes) override;
  absl::Status Reserve(uint64_t) override { return absl::OkStatus(); }
  absl::Status Sync() override { return absl::OkStatus(); }
  absl::Status Close() override { return absl::OkStatus(); }
  uint64_t size() const override { return contents_.size(); }
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const override;
  void DropCache() const override {}
  const std::string& contents() const { return contents_; }

 private:
  std::string contents_;
};

}  // namespace vlm::data

#endif  // VLM_TESTS_UNIT_IMAGE_ORACLE_H_
