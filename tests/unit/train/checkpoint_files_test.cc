#include "train/checkpoint_files.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file_system.h"
#include "gang_run.h"
#include "state_folder.h"

namespace vlm::train {
namespace {

TEST(CheckpointFilesTest, StateSurvivesRealFilesBitForBit) {
  const std::string folder = testing::TempDir() + "checkpoint_files_test";
  ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder).ok());
  ASSERT_TRUE(PosixFileSystem()->MakeDirectory(folder).ok());
  GangOptions options;
  options.steps = 2;
  options.after = [&](ParameterStore* store) {
    EXPECT_GT(ImageBytes(SaveState(PlanState(*store, {}), store).value()), 0u);
    WriteStateFolder(folder, /*file_bytes_max=*/40000, store);
  };
  const GangResult saved = RunGang(options);

  const auto weights = checkpoint::SafetensorsFolder::Open(PosixFileSystem(), folder).value();
  EXPECT_GT(weights->files().size(), 2u);
  EXPECT_EQ(weights->files()[0]->header().metadata.at("format"), "pt");
  const auto collective = NewSingleRankCollective();
  ToyRank rank(options, collective.get());
  const absl::Status status = LoadStateFolder(folder, rank.store());
  ASSERT_TRUE(status.ok()) << status;
  for (const auto& [name, weight] : AllWeights(rank.store())) EXPECT_TRUE(EqualBits(weight, saved.weights.at(name)));
}

}  // namespace
}  // namespace vlm::train
