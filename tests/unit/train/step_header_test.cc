#include "train/step_header.h"

#include <gtest/gtest.h>

#include <limits>

#include "train/collective.h"

namespace vlm::train {
namespace {

MicroBatchHeader Entry(int64_t m, double weight, int64_t images = 0) {
  return {m, {10, 5, 2, images, images * 4}, weight};
}

TEST(StepHeaderTest, EncodingKeepsEverything) {
  const RankHeader header{17, "0123456789abcdef", {Entry(1, 0.1), Entry(3, 1e-300, 2)}};
  const RankHeader back = DecodeRankHeader(EncodeRankHeader(header)).value();
  EXPECT_EQ(back.step, 17u);
  EXPECT_EQ(back.plan_hash, header.plan_hash);
  EXPECT_EQ(back.micro_batches, header.micro_batches);
}

TEST(StepHeaderTest, DamagedBytesAreRefused) {
  const std::string bytes = EncodeRankHeader({17, "0123456789abcdef", {Entry(1, 0.1)}});
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(DecodeRankHeader(std::string_view(bytes).substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(DecodeRankHeader(bytes + "x").ok());
  EXPECT_FALSE(DecodeRankHeader("Y" + bytes.substr(1)).ok());
}

TEST(StepHeaderTest, CountsThatNoMicroBatchHasAreRefused) {
  for (int64_t model::Counts::* const count :
       {&model::Counts::tokens, &model::Counts::targets, &model::Counts::documents, &model::Counts::images,
        &model::Counts::vision_tokens}) {
    for (const int64_t value : {int64_t{-1}, (int64_t{1} << 31) + 1, INT64_MAX}) {
      MicroBatchHeader entry = Entry(1, 0.1);
      entry.counts.*count = value;
      EXPECT_TRUE(absl::IsDataLoss(DecodeRankHeader(EncodeRankHeader({17, "h", {entry}})).status())) << value;
    }
  }
}

TEST(StepHeaderTest, ADenominatorThatOverflowsIsRefused) {
  EXPECT_EQ(JoinHeaders({{5, "a", {Entry(0, 1e308)}}, {5, "a", {Entry(1, 1e308)}}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(StepHeaderTest, DenominatorIsSummedInOrderOfMicroBatches) {
  const std::vector<double> weights = {1e16, 1.0, -0.0, 1.0, 3.0};
  double expected = 0;
  for (double weight : weights) expected += weight;
  for (size_t world : {1, 2, 3, 7}) {
    std::vector<RankHeader> ranks(world, RankHeader{5, "h", {}});
    for (size_t m = 0; m < weights.size(); ++m) {
      ranks[m % world].micro_batches.push_back(Entry(static_cast<int64_t>(m), weights[m], m == 3 ? 1 : 0));
    }
    const StepHeader header = JoinHeaders(ranks).value();
    EXPECT_EQ(header.target_weight, expected);
    EXPECT_EQ(header.totals.tokens, 50);
    EXPECT_EQ(header.totals.images, 1);
  }
}

TEST(StepHeaderTest, PresenceOfImagesIsOfTheMicroStep) {
  RankHeader zero{5, "h", {Entry(0, 1), Entry(2, 1)}}, one{5, "h", {Entry(1, 1), Entry(3, 1, 2)}};
  const StepHeader header = JoinHeaders({zero, one}).value();
  EXPECT_EQ(header.MicroSteps(2), 2);
  EXPECT_FALSE(header.HasImages(0, 2));
  EXPECT_TRUE(header.HasImages(1, 2));
}

TEST(StepHeaderTest, DifferentPlansAreAnErrorThatNamesBoth) {
  const auto result = JoinHeaders({{5, "aaaa", {Entry(0, 1)}}, {5, "bbbb", {Entry(1, 1)}}});
  ASSERT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
  for (const char* part : {"rank 0 has aaaa", "rank 1 has bbbb", "step 5"}) {
    EXPECT_NE(result.status().message().find(part), absl::string_view::npos) << result.status();
  }
}

TEST(StepHeaderTest, DifferentStepsAreAnErrorThatNamesBoth) {
  const auto result = JoinHeaders({{5, "a", {Entry(0, 1)}}, {6, "a", {Entry(1, 1)}}});
  ASSERT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(result.status().message().find("rank 1 announces step 6"), absl::string_view::npos);
}

TEST(StepHeaderTest, DenominatorOfZeroIsRefused) {
  EXPECT_EQ(JoinHeaders({{5, "a", {Entry(0, 0)}}, {5, "a", {Entry(1, 0)}}}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(JoinHeaders({{5, "a", {}}}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(JoinHeaders({{5, "a", {Entry(0, std::numeric_limits<double>::quiet_NaN())}}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(StepHeaderTest, MicroBatchesMustBeDealtByRank) {
  EXPECT_FALSE(JoinHeaders({{5, "a", {Entry(1, 1)}}, {5, "a", {Entry(0, 1)}}}).ok());
  EXPECT_FALSE(JoinHeaders({{5, "a", {}}, {5, "a", {Entry(0, 1)}}}).ok());
  EXPECT_FALSE(JoinHeaders({{5, "a", {Entry(0, 1), Entry(1, 1)}}, {5, "a", {}}}).ok());
}

TEST(StepHeaderTest, MicroBatchWithoutTargetIsRefused) {
  MicroBatchHeader empty = Entry(1, 0);
  empty.counts.targets = 0;
  EXPECT_EQ(JoinHeaders({{5, "a", {Entry(0, 1)}}, {5, "a", {empty}}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(StepHeaderTest, BadPicturesOfAllRanksAreJoinedInOrder) {
  RankHeader zero{5, "h", {Entry(0, 1)}, {9, 3}}, one{5, "h", {Entry(1, 1)}, {7, 3}};
  const RankHeader back = DecodeRankHeader(EncodeRankHeader(zero)).value();
  EXPECT_EQ(back.bad_pictures, zero.bad_pictures);
  EXPECT_EQ(back.micro_batches, zero.micro_batches);
  EXPECT_EQ(JoinHeaders({zero, one}).value().bad_pictures, (std::vector<uint64_t>{3, 7, 9}));
  EXPECT_FALSE(DecodeRankHeader(EncodeRankHeader(zero).substr(0, EncodeRankHeader(zero).size() - 8)).ok());
}

TEST(StepHeaderTest, ExchangeOverACollective) {
  const auto collective = NewSingleRankCollective();
  const StepHeader header = ExchangeHeader({3, "a", {Entry(0, 2), Entry(1, 4)}}, collective.get()).value();
  EXPECT_EQ(header.target_weight, 6.0);
  collective->Abort("test");
  EXPECT_EQ(ExchangeHeader({4, "a", {Entry(0, 2)}}, collective.get()).status().code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace vlm::train
