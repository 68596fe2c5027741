#include "trainer/exit_code.h"

#include <gtest/gtest.h>

#include "base/out_of_memory.h"

namespace vlm::trainer {
namespace {

TEST(ExitCodeTest, ACodeSuggestsAnExit) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), ExitCode::kOk);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("rank 1 is gone")), ExitCode::kPeerLost);
  EXPECT_EQ(ExitCodeOf(absl::AbortedError("rank 1: the disk is full")), ExitCode::kPeerLost);
  EXPECT_EQ(ExitCodeOf(absl::DataLossError("checksum")), ExitCode::kDamagedCheckpoint);
  EXPECT_EQ(ExitCodeOf(absl::ResourceExhaustedError("no space left on device")), ExitCode::kStorage);
  EXPECT_EQ(ExitCodeOf(absl::FailedPreconditionError("other settings")), ExitCode::kIncompatible);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("pattern")), ExitCode::kUserError);
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("model.json")), ExitCode::kUserError);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("sizes differ")), ExitCode::kCrash);
}

TEST(ExitCodeTest, WhoWaitedInVainForAPeerHasLostIt) {
  EXPECT_EQ(ExitCodeOf(absl::DeadlineExceededError("rank 1 did not join within 15m")), ExitCode::kPeerLost);
}

TEST(ExitCodeTest, MemoryIsNotStorage) {
  const absl::Status memory = OutOfMemoryError("backward of node llm.head failed: out of memory");
  EXPECT_EQ(ExitCodeOf(memory), ExitCode::kOutOfMemory);
  EXPECT_EQ(ExitCodeOf(Annotate(memory, "step 7")), ExitCode::kOutOfMemory);
  EXPECT_EQ(ExitCodeOf(WithExitCode(memory, ExitCode::kStorage)), ExitCode::kOutOfMemory);
}

TEST(ExitCodeTest, TheInnermostMarkStays) {
  const absl::Status marked = WithExitCode(absl::InternalError("three saves failed"), ExitCode::kStorage);
  EXPECT_EQ(ExitCodeOf(marked), ExitCode::kStorage);
  EXPECT_EQ(ExitCodeOf(WithExitCode(marked, ExitCode::kNumeric)), ExitCode::kStorage);
  EXPECT_TRUE(WithExitCode(absl::OkStatus(), ExitCode::kNumeric).ok());
}

}  // namespace
}  // namespace vlm::trainer
