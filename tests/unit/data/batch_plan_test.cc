#include "data/batch_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace vlm::data {
namespace {

Manifest ManifestOf(uint64_t samples, uint32_t context) {
  Manifest manifest;
  manifest.render.context = static_cast<int32_t>(context);
  manifest.sources = {{"text", 0, samples}};
  Rng rng(RngKey{11});
  for (uint64_t i = 0; i < samples; ++i) {
    manifest.samples.push_back({0, 1, 0, 1 + static_cast<uint32_t>(rng.Below(context / 2)), 1, 0, 0});
  }
  return manifest;
}

BatchOptions OptionsOf(bool packing) {
  return {.seed = 5, .mixture = {{"text", 1.0, 0}}, .global_batch = 12, .micro_batch = 5, .packing = packing};
}

class BatchPlanTest : public ::testing::TestWithParam<bool> {};

TEST_P(BatchPlanTest, ACursorReachesTheSameStepAsWalking) {
  const Manifest manifest = ManifestOf(5000, 64);
  BatchPlan walking = *BatchPlan::Create(&manifest, OptionsOf(GetParam()));
  Cursor cursor;
  for (int step = 0; step < 200; ++step) {
    const StepBatch batch = walking.Next(cursor);
    EXPECT_EQ(batch.rows.size(), 12u);
    BatchPlan resumed = *BatchPlan::Create(&manifest, OptionsOf(GetParam()));
    EXPECT_EQ(resumed.Next(*Cursor::Decode(cursor.Encode())).rows, batch.rows);
    cursor = batch.next;
  }
}

TEST_P(BatchPlanTest, AnEpochHoldsEverySampleOnce) {
  const Manifest manifest = ManifestOf(BatchPlan::kWindow * 2, 64);
  BatchPlan plan = *BatchPlan::Create(&manifest, OptionsOf(GetParam()));
  std::multiset<uint64_t> seen;
  Cursor cursor;
  while (seen.size() < manifest.samples.size()) {
    const StepBatch batch = plan.Next(cursor);
    for (const Row& row : batch.rows) {
      for (const uint64_t sample : row) {
        if (seen.size() < manifest.samples.size()) seen.insert(sample);
      }
    }
    cursor = batch.next;
  }
  EXPECT_EQ((std::set<uint64_t>(seen.begin(), seen.end()).size()), manifest.samples.size());
}

TEST_P(BatchPlanTest, MicroBatchesCoverTheRowsInOrder) {
  const Manifest manifest = ManifestOf(500, 64);
  BatchPlan plan = *BatchPlan::Create(&manifest, OptionsOf(GetParam()));
  const StepBatch batch = plan.Next({});
  ASSERT_EQ(batch.micro_batches(), 3u);
  std::vector<Row> rows;
  for (uint32_t m = 0; m < 3; ++m) {
    for (const Row& row : batch.MicroBatch(m)) rows.push_back(row);
  }
  EXPECT_EQ(rows, batch.rows);
  EXPECT_EQ(batch.MicroBatch(2).size(), 2u);
  EXPECT_TRUE(batch.MicroBatch(3).empty());
}

INSTANTIATE_TEST_SUITE_P(PackingOffAndOn, BatchPlanTest, ::testing::Bool());

TEST(BatchPlanTest, PacksFitTheContext) {
  const Manifest manifest = ManifestOf(3000, 64);
  BatchPlan plan = *BatchPlan::Create(&manifest, OptionsOf(true));
  Cursor cursor;
  size_t samples = 0;
  for (int step = 0; step < 50; ++step) {
    const StepBatch batch = plan.Next(cursor);
    for (const Row& row : batch.rows) {
      uint32_t tokens = 0;
      for (const uint64_t sample : row) tokens += manifest.samples[sample].tokens;
      EXPECT_LE(tokens, 64u);
      samples += row.size();
    }
    cursor = batch.next;
  }
  EXPECT_GT(samples, 50u * 12u * 2u);  // 16 tokens a sample on average
}

TEST(BatchPlanTest, StopKeepsTheFirstSamplesOnly) {
  const Manifest manifest = ManifestOf(500, 64);
  BatchOptions options = OptionsOf(false);
  options.mixture[0].stop = 30;
  BatchPlan plan = *BatchPlan::Create(&manifest, options);
  Cursor cursor;
  for (int step = 0; step < 10; ++step) {
    const StepBatch batch = plan.Next(cursor);
    for (const Row& row : batch.rows) EXPECT_LT(row[0], 30u);
    cursor = batch.next;
  }
}

TEST(BatchPlanTest, FingerprintFollowsWhatChangesTheSequence) {
  const Manifest manifest = ManifestOf(500, 64);
  const Digest base = BatchPlan::Create(&manifest, OptionsOf(true))->Fingerprint("m");
  BatchOptions other = OptionsOf(true);
  other.micro_batch = 4;
  EXPECT_NE(BatchPlan::Create(&manifest, other)->Fingerprint("m"), base);
  EXPECT_NE(BatchPlan::Create(&manifest, OptionsOf(true))->Fingerprint("n"), base);
  EXPECT_EQ(BatchPlan::Create(&manifest, OptionsOf(true))->Fingerprint("m"), base);
}

TEST(BatchPlanTest, UnknownSourceNamesTheKnownOnes) {
  const Manifest manifest = ManifestOf(500, 64);
  BatchOptions options = OptionsOf(false);
  options.mixture[0].source = "pictures";
  const absl::Status status = BatchPlan::Create(&manifest, options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(::testing::HasSubstr("text"), ::testing::HasSubstr("pictures")));
}

TEST(BatchPlanTest, StepsOfAnEpochMatchWalking) {
  const Manifest manifest = ManifestOf(BatchPlan::kWindow * 3, 64);
  BatchPlan plan = *BatchPlan::Create(&manifest, OptionsOf(true));
  const uint64_t steps = plan.StepsOf(1);
  Cursor cursor;
  uint64_t walked = 0;
  for (; cursor.window < 3; ++walked) cursor = plan.Next(cursor).next;
  EXPECT_NEAR(static_cast<double>(steps), static_cast<double>(walked), 2.0);
}

TEST(BatchPlanTest, StepsWithoutPackingAreRowsOfOneSample) {
  const Manifest manifest = ManifestOf(600, 64);
  BatchPlan plan = *BatchPlan::Create(&manifest, OptionsOf(false));
  EXPECT_EQ(plan.StepsOf(1), 50u);
  EXPECT_EQ(plan.StepsOf(2.5), 125u);
  EXPECT_EQ(plan.StepsOf(0.001), 1u) << "a run has a step";
}

TEST(BatchPlanTest, BatchesOfNothingAreRefused) {
  const Manifest manifest = ManifestOf(500, 64);
  for (const int field : {0, 1, 2}) {
    BatchOptions options = OptionsOf(false);
    if (field == 0) options.global_batch = 0;
    if (field == 1) options.micro_batch = 0;
    if (field == 2) options.mixture.clear();
    EXPECT_EQ(BatchPlan::Create(&manifest, options).status().code(), absl::StatusCode::kInvalidArgument) << field;
  }
}

TEST(CursorTest, NoTextIsTheStartAndAnyOtherThatDoesNotParseIsNamed) {
  const absl::StatusOr<Cursor> start = Cursor::Decode("");
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->Encode(), Cursor{}.Encode());
  for (const char* text :
       {"x", "[]", "{}", R"({"window":1})", R"({"row":1})", R"({"window":-1,"row":1})", R"({"window":1,"row":0.5})"}) {
    const absl::Status status = Cursor::Decode(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(text));
  }
}

}  // namespace
}  // namespace vlm::data
