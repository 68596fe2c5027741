#include "train/checkpoint_files.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file_system.h"
#include "checkpoint/format/safetensors_writer.h"
#include "gang_run.h"

namespace vlm::train {
namespace {

// Writes files as checkpoint::StepWriter does, without its thread and its service.
void WriteAll(const std::string& folder, const std::vector<checkpoint::FileToWrite>& files) {
  for (const checkpoint::FileToWrite& file : files) {
    const std::string path = folder + "/" + file.name;
    if (!file.produce_tensor) {
      ASSERT_TRUE(checkpoint::WriteDurableFile(PosixFileSystem(), path, file.contents).ok());
      continue;
    }
    auto writer = checkpoint::SafetensorsWriter::Create(PosixFileSystem(), path, file.tensors, file.metadata).value();
    for (const checkpoint::TensorEntry& tensor : writer->tensors()) {
      ASSERT_TRUE(
          file.produce_tensor(tensor, [&](std::span<const std::byte> bytes) { return writer->Append(bytes); }).ok());
    }
    ASSERT_TRUE(writer->Finish().ok());
  }
}

TEST(CheckpointFilesTest, StateSurvivesRealFilesBitForBit) {
  const std::string folder = testing::TempDir() + "checkpoint_files_test";
  ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder).ok());
  ASSERT_TRUE(PosixFileSystem()->MakeDirectory(folder).ok());
  GangOptions options;
  options.steps = 2;
  options.after = [&](ParameterStore* store) {
    StateOptions small;
    small.file_bytes_max = 40000;
    std::vector<FileImage> images = SaveState(PlanState(*store, small), store).value();
    EXPECT_GT(ImageBytes(images), 0u);
    WriteAll(folder, ToFilesToWrite(std::move(images)).value());
  };
  const GangResult saved = RunGang(options);

  const auto weights = checkpoint::SafetensorsFolder::Open(PosixFileSystem(), folder).value();
  const auto optimizer = checkpoint::SafetensorsFolder::Open(PosixFileSystem(), folder, {.stem = "optimizer"}).value();
  const std::string json = ReadFile(PosixFileSystem(), folder + "/optimizer.json", 1 << 20).value();
  EXPECT_GT(weights->files().size(), 2u);
  EXPECT_EQ(weights->files()[0]->header().metadata.at("format"), "pt");
  const auto collective = NewSingleRankCollective();
  ToyRank rank(options, collective.get());
  const absl::Status status =
      LoadState(NewFolderSource(weights.get()).get(), NewFolderSource(optimizer.get()).get(), json, rank.store());
  ASSERT_TRUE(status.ok()) << status;
  for (const auto& [name, weight] : AllWeights(rank.store())) EXPECT_TRUE(EqualBits(weight, saved.weights.at(name)));
}

}  // namespace
}  // namespace vlm::train
