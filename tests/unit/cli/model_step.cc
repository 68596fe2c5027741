#include "tests/unit/cli/model_step.h"

#include <gtest/gtest.h>

#include "checkpoint/format/safetensors_folder.h"
#include "checkpoint/format/safetensors_writer.h"

namespace vlm::cli {
namespace {

using checkpoint::FileClaim;

FileClaim WriteText(const std::string& folder, const std::string& name, const std::string& text) {
  const auto written = checkpoint::WriteDurableFile(PosixFileSystem(), folder + "/" + name, text);
  EXPECT_TRUE(written.ok()) << written.status();
  return {name, written->bytes, written->digest};
}

FileClaim WriteTensor(const std::string& folder, const std::string& name, const std::string& tensor, uint64_t floats) {
  auto writer = checkpoint::SafetensorsWriter::Create(
      PosixFileSystem(), folder + "/" + name, {{tensor, checkpoint::DType::kF32, {floats}}}, {{"format", "pt"}});
  EXPECT_TRUE(writer.ok()) << writer.status();
  std::vector<std::byte> bytes(floats * 4);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 31 % 251);
  EXPECT_TRUE((*writer)->Append(bytes).ok());
  const auto written = (*writer)->Finish();
  EXPECT_TRUE(written.ok()) << written.status();
  return {name, written->bytes, written->digest};
}

}  // namespace

std::vector<FileClaim> WriteModelStep(const std::string& folder) {
  constexpr uint64_t kLarge = (5 << 20) / 4, kSmall = 12;
  return {
      WriteTensor(folder, "vision.safetensors", "vision_tower.weight", kSmall),
      WriteTensor(folder, "llm.safetensors", "language_model.weight", kLarge),
      WriteTensor(folder, "optimizer-00001-of-00001.safetensors", "m/0-12/vision_tower.weight", kSmall),
      WriteText(folder, "model.safetensors.index.json",
                checkpoint::MakeSafetensorsIndex(
                    {{"vision_tower.weight", "vision.safetensors"}, {"language_model.weight", "llm.safetensors"}},
                    (kLarge + kSmall) * 4)),
      WriteText(folder, "config.json", "{}"),
      WriteText(folder, "tokenizer.json", "{\"version\": \"1.0\"}"),
      WriteText(folder, "optimizer.json", "{}"),
      WriteText(folder, "curves.json", "{}"),
  };
}

}  // namespace vlm::cli
