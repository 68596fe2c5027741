// Rows that no program has written: a start names them, before an effect acts on what they say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "checkpoint/core/catalog_keys.h"
#include "checkpoint/core/checkpoint_core.h"
#include "vlm/v1/catalog.pb.h"

namespace vlm::checkpoint {
namespace {

using ::testing::HasSubstr;

const std::string kUid = "0123456789abcdef";

// A stage with a step that is published, of two ranks, and one that is being deleted.
struct Rows {
  Rows() {
    stage.set_job_id("job-1");
    stage.set_stage("sft");
    stage.set_root("/data");
    stage.set_min_fence(2);
    stage.set_keep_last(3);
    step.set_state(v1::STEP_STATE_COMPLETE);
    step.set_world(2);
    step.set_final(true);
    step.set_folder(StepFolder("/data", "job-1", "sft", key));
    for (int rank = 0; rank < 2; ++rank) {
      v1::StepFile* const file = (rank == 0 ? part0 : part1).add_files();
      file->set_name("rank-" + std::to_string(rank) + ".bin");
      file->set_bytes(8);
      file->set_digest(std::string(64, 'a'));
    }
    artifact.set_kind("model");
    artifact.set_step(key.step);
    artifact.set_fence(key.fence);
    artifact.set_digest(std::string(64, 'b'));
    artifact.set_folder(step.folder());
    leaving.set_state(v1::STEP_STATE_DELETING);
    leaving.set_world(1);
    leaving.set_folder(StepFolder("/data", "job-1", "sft", leaving_key));
  }

  absl::StatusOr<Outputs> Start() const {
    CheckpointCore core;
    const auto add = [&core](std::string_view family, const std::string& row_key, const std::string& value) {
      return core.AddRow(family, row_key, value);
    };
    VLM_RETURN_IF_ERROR(add(kStageFamily, stage_key, stage.SerializeAsString()));
    VLM_RETURN_IF_ERROR(add(kStepFamily, EncodeStepKey(key), step.SerializeAsString()));
    VLM_RETURN_IF_ERROR(add(kStepFamily, EncodeStepKey(leaving_key), leaving.SerializeAsString()));
    VLM_RETURN_IF_ERROR(add(kPartFamily, EncodePartKey(key, 0), part0.SerializeAsString()));
    VLM_RETURN_IF_ERROR(add(kPartFamily, EncodePartKey(key, part1_rank), part1.SerializeAsString()));
    VLM_RETURN_IF_ERROR(add(kHoldFamily, EncodeHoldKey(key, {HoldKind::kOutput, 0}), ""));
    VLM_RETURN_IF_ERROR(add(kArtifactFamily, EncodeArtifactKey(artifact_key, kUid), artifact.SerializeAsString()));
    if (!second_artifact_key.empty()) {
      v1::ArtifactRow second = artifact;
      second.set_digest(second_artifact_key);
      VLM_RETURN_IF_ERROR(
          add(kArtifactFamily, EncodeArtifactKey(second_artifact_key, kUid), second.SerializeAsString()));
    }
    return core.Start(absl::FromUnixSeconds(1'000'000));
  }

  std::string stage_key = kUid, artifact_key = std::string(64, 'b'), second_artifact_key;
  StepKey key{kUid, 5, 1}, leaving_key{kUid, 4, 1};
  uint32_t part1_rank = 1;
  v1::StageRow stage;
  v1::StepRow step, leaving;
  v1::PartRow part0, part1;
  v1::ArtifactRow artifact;
};

TEST(DamagedRows, WholeRowsOpen) {
  const absl::StatusOr<Outputs> started = Rows().Start();
  ASSERT_TRUE(started.ok()) << started.status();
  ASSERT_EQ(started->effects.size(), 2u);  // the marker and the removal
}

// A removal takes its folder from the row: one digit, and it would take another step's.
TEST(DamagedRows, AFolderThatIsNotTheStepsOwnIsRefusedBeforeAnythingIsRemoved) {
  Rows rows;
  rows.leaving.set_folder(rows.step.folder());
  const absl::StatusOr<Outputs> started = rows.Start();
  EXPECT_EQ(started.status().code(), absl::StatusCode::kDataLoss) << started.status();
  EXPECT_THAT(std::string(started.status().message()), HasSubstr(rows.step.folder()));
}

TEST(DamagedRows, WhatNoRequestCouldHaveMadeIsDataLoss) {
  struct Case {
    const char* what;
    std::function<void(Rows*)> damage;
  };
  const Case cases[] = {
      {"job_id", [](Rows* rows) { rows->stage.set_job_id(".."); }},
      {"stage", [](Rows* rows) { rows->stage.set_stage("a/b"); }},
      {"root", [](Rows* rows) { rows->stage.set_root("data"); }},
      {"another root", [](Rows* rows) { rows->stage.set_root("/dato"); }},
      {"stage_uid", [](Rows* rows) { rows->stage_key[3] = 'x'; }},
      {"no fence", [](Rows* rows) { rows->stage.set_min_fence(0); }},
      {"step of an attempt to come", [](Rows* rows) { rows->leaving_key.fence = 3; }},
      {"no state", [](Rows* rows) { rows->step.clear_state(); }},
      {"state of no version", [](Rows* rows) { rows->step.set_state(static_cast<v1::StepState>(77)); }},
      {"world 0", [](Rows* rows) { rows->leaving.set_world(0); }},
      {"world below zero", [](Rows* rows) { rows->leaving.set_world(-1); }},
      {"parent that is not before", [](Rows* rows) { rows->step.set_parent_step(5); }},
      {"complete without all parts", [](Rows* rows) { rows->step.set_world(3); }},
      {"more parts than ranks", [](Rows* rows) { rows->step.set_world(1); }},
      {"part of a rank that is not", [](Rows* rows) { rows->part1_rank = 2; }},
      {"file outside the folder", [](Rows* rows) { rows->part0.mutable_files(0)->set_name("../up"); }},
      {"digest of a file", [](Rows* rows) { rows->part0.mutable_files(0)->set_digest("g"); }},
      {"artifact of a step that is not", [](Rows* rows) { rows->artifact.set_step(6); }},
      {"artifact of another attempt", [](Rows* rows) { rows->artifact.set_fence(2); }},
      {"artifact in another folder", [](Rows* rows) { rows->artifact.set_folder("/data/x"); }},
      {"artifact under another digest", [](Rows* rows) { rows->artifact_key[0] = 'c'; }},
      {"two artifacts", [](Rows* rows) { rows->second_artifact_key = std::string(64, 'c'); }},
  };
  for (const Case& one : cases) {
    Rows rows;
    one.damage(&rows);
    const absl::StatusOr<Outputs> started = rows.Start();
    EXPECT_EQ(started.status().code(), absl::StatusCode::kDataLoss) << one.what << ": " << started.status();
    EXPECT_THAT(std::string(started.status().message()), HasSubstr("catalog")) << one.what;
  }
}

TEST(DamagedRows, KeysThatNoProgramWritesAreDataLoss) {
  const StepKey step{kUid, 5, 1};
  const std::string step_key = EncodeStepKey(step), part_key = EncodePartKey(step, 1);
  const std::string hold_key = EncodeHoldKey(step, {HoldKind::kResume, 1});
  std::string unknown_hold = hold_key;
  unknown_hold[step_key.size()] = 3;
  const std::pair<std::string_view, std::string> rows[] = {
      {kStepFamily, step_key.substr(1)}, {kStepFamily, part_key},           {kPartFamily, step_key},
      {kPartFamily, part_key + "x"},     {kHoldFamily, hold_key.substr(1)}, {kHoldFamily, hold_key + "x"},
      {kHoldFamily, unknown_hold},       {kArtifactFamily, kUid},
  };
  for (const auto& [family, key] : rows) {
    CheckpointCore core;
    const absl::Status added = core.AddRow(family, key, "");
    EXPECT_EQ(added.code(), absl::StatusCode::kDataLoss) << family << ", " << key.size() << " bytes: " << added;
    EXPECT_THAT(std::string(added.message()), HasSubstr("catalog"));
  }
  CheckpointCore core;
  EXPECT_EQ(core.AddRow("unknown", kUid, "").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(core.AddRow(kStepFamily, step_key, "\xff\xff").code(), absl::StatusCode::kDataLoss) << "does not parse";
}

// A stage of one step that has a hold, and no row of its own.
TEST(DamagedRows, AHoldAloneIsDataLoss) {
  CheckpointCore core;
  ASSERT_TRUE(core.AddRow(kHoldFamily, EncodeHoldKey({kUid, 5, 1}, {HoldKind::kResume, 1}), "").ok());
  EXPECT_EQ(core.Start(absl::FromUnixSeconds(1'000'000)).status().code(), absl::StatusCode::kDataLoss);
}

TEST(CatalogKeys, SortAsTheirNumbersAndComeBack) {
  std::string before;
  for (const uint64_t number : {uint64_t{1}, uint64_t{255}, uint64_t{256}, uint64_t{65'536}, uint64_t{1} << 40}) {
    const StepKey step{kUid, number, number + 7};
    EXPECT_LT(before, EncodeStepKey(step));
    before = EncodeStepKey(step);
    EXPECT_EQ(*DecodeStepKey(before), step);
    const absl::StatusOr<PartKey> part = DecodePartKey(EncodePartKey(step, 65'535));
    ASSERT_TRUE(part.ok());
    EXPECT_EQ(part->step, step);
    EXPECT_EQ(part->rank, 65'535u);
    for (const Hold& hold : {Hold{HoldKind::kResume, number}, Hold{HoldKind::kOutput, 0}}) {
      const absl::StatusOr<HoldKey> decoded = DecodeHoldKey(EncodeHoldKey(step, hold));
      ASSERT_TRUE(decoded.ok());
      EXPECT_EQ(decoded->step, step);
      EXPECT_EQ(decoded->hold, hold);
    }
  }
}

}  // namespace
}  // namespace vlm::checkpoint
