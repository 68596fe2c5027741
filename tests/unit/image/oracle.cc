#include "tests/unit/image/oracle.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace vlm::data {

std::string EmptyFolder(const std::string& name) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / ("vlm_data_image_" + name);
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder.string();
}

bool RunOracle(const std::string& script, const std::string& mode, const std::string& folder) {
  const std::string command =
      std::string(VLM_ORACLE_PYTHON) + " " + VLM_SOURCE_DIR + "/tests/unit/image/" + script + " " + mode + " " + folder;
  return std::system(command.c_str()) == 0;
}

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

nlohmann::json Cases(const std::string& folder) { return nlohmann::json::parse(Contents(folder + "/cases.json")); }

Image RawImage(const std::string& path, int width, int height) {
  const std::string raw = Contents(path);
  EXPECT_EQ(raw.size(), size_t{3} * static_cast<size_t>(width) * static_cast<size_t>(height)) << path;
  return {width, height, std::vector<uint8_t>(raw.begin(), raw.end())};
}

void WriteContents(const std::string& path, std::string_view contents) {
  std::ofstream file(path, std::ios::binary);
  file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
  EXPECT_TRUE(file.good()) << path;
}

absl::Status MemoryFile::Append(std::span<const std::byte> bytes) {
  contents_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return absl::OkStatus();
}

absl::Status MemoryFile::ReadAt(uint64_t offset, std::span<std::byte> out) const {
  if (offset > contents_.size() || contents_.size() - offset < out.size()) return absl::OutOfRangeError("past the end");
  std::memcpy(out.data(), contents_.data() + offset, out.size());
  return absl::OkStatus();
}

}  // namespace vlm::data
