#include "cli/export_folder.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "checkpoint/format/safetensors_folder.h"
#include "checkpoint/format/safetensors_writer.h"
#include "tests/unit/cli/cli_fixture.h"
#include "tests/unit/cli/model_step.h"

namespace vlm::cli {
namespace {

using checkpoint::FileClaim;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> NamesIn(const std::string& folder) {
  absl::StatusOr<std::vector<std::string>> names = PosixFileSystem()->List(folder);
  return names.ok() ? *names : std::vector<std::string>{std::string(names.status().message())};
}

class ExportFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/export_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(step());
    claims_ = WriteModelStep(step());
  }
  std::string step() const { return folder_ + "/step"; }
  std::string to() const { return folder_ + "/model"; }
  absl::StatusOr<Exported> Export() {
    absl::StatusOr<std::vector<FileClaim>> files = ModelFiles(claims_);
    if (!files.ok()) return files.status();
    return ExportFolder(PosixFileSystem(), step(), *files, to());
  }

  std::string folder_;
  std::vector<FileClaim> claims_;
};

TEST_F(ExportFolderTest, CopiesTheModelAndNothingElse) {
  const absl::StatusOr<Exported> exported = Export();
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_THAT(NamesIn(to()), ElementsAre("config.json", "llm.safetensors", "model.safetensors.index.json",
                                         "tokenizer.json", "vision.safetensors"));
  EXPECT_EQ(exported->files, 5u);
  for (const std::string& name : NamesIn(to())) {
    EXPECT_EQ(*ReadFile(PosixFileSystem(), to() + "/" + name, 1 << 30),
              *ReadFile(PosixFileSystem(), step() + "/" + name, 1 << 30));
  }
  checkpoint::FolderOptions plain;
  plain.require_sums = false;
  const auto opened = checkpoint::SafetensorsFolder::Open(PosixFileSystem(), to(), plain);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_NE((*opened)->Find("language_model.weight"), nullptr);
  EXPECT_NE((*opened)->Find("vision_tower.weight"), nullptr);
}

TEST_F(ExportFolderTest, RefusesAFolderThatExists) {
  std::filesystem::create_directory(to());
  EXPECT_EQ(Export().status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(NamesIn(to()), ElementsAre());
}

TEST_F(ExportFolderTest, AMissingParentIsNotMade) {
  EXPECT_EQ(ExportFolder(PosixFileSystem(), step(), *ModelFiles(claims_), folder_ + "/a/b").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ExportFolderTest, NamesTheDamagedChunkAndLeavesNothing) {
  // A bit of the second chunk of the largest file.
  std::fstream file(step() + "/llm.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp((4 << 20) + 100);
  file.put('\x7f');
  file.close();
  const absl::Status status = Export().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("llm.safetensors, chunk 1"));
  EXPECT_THAT(NamesIn(folder_), ElementsAre("step"));
}

TEST_F(ExportFolderTest, MissingFilesAndSumsAreDamage) {
  std::filesystem::remove(step() + "/tokenizer.json");
  EXPECT_EQ(Export().status().code(), absl::StatusCode::kDataLoss);
  std::filesystem::remove(step() + "/tokenizer.json.sum");
  EXPECT_EQ(Export().status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(NamesIn(folder_), ElementsAre("step"));
}

TEST_F(ExportFolderTest, AFileOfAnotherStepIsDamage) {
  for (FileClaim& claim : claims_) {
    if (claim.name == "config.json") claim.digest = std::string(64, '0');
  }
  EXPECT_EQ(Export().status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ExportFolderTest, WhatIsNoModelIsRefused) {
  const std::vector<FileClaim> tokenizer = {{"tokenizer.json", 3, ""}};
  EXPECT_EQ(ModelFiles(tokenizer).status().code(), absl::StatusCode::kFailedPrecondition);
  const std::vector<FileClaim> optimizer = {{"config.json", 3, ""}, {"optimizer-00001-of-00001.safetensors", 3, ""}};
  EXPECT_EQ(ModelFiles(optimizer).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace vlm::cli
