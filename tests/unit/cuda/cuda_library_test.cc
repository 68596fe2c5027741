// What is opened at run time opens, and without a GPU says what is missing. CTest hides the machine's GPUs.
#include "train/cuda/cuda_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vlm::train {
namespace {

using ::testing::HasSubstr;

TEST(CudaLibraryTest, WithoutADeviceTheRemedyIsNamed) {
  const absl::Status status = LoadCudaDevices();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--cpu-slots"));
}

TEST(CudaLibraryTest, ASharedObjectThatIsMissingIsNamedWithTheRemedy) {
  const absl::Status status = LoadNcclBackend("libvlm_no_such_library.so").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("libvlm_no_such_library.so"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("scripts/setup --cuda"));
}

TEST(CudaLibraryTest, AnotherLibraryIsNotTakenForTheBackend) {
  const absl::Status status = LoadNcclBackend("libc10.so").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("libc10.so"));
}

class NcclBackendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!VLM_CUDA) GTEST_SKIP() << "configured with -DVLM_CUDA=OFF: there is no NCCL backend to open";
    const absl::StatusOr<const NcclBackend*> loaded = LoadNcclBackend();
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    backend_ = *loaded;
  }
  const NcclBackend* backend_ = nullptr;
};

TEST_F(NcclBackendTest, OpensWithEverythingItLinksAndOnce) {
  const absl::StatusOr<const NcclBackend*> again = LoadNcclBackend();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, backend_);
}

TEST_F(NcclBackendTest, WithoutADeviceEveryCallNamesWhatIsMissing) {
  const absl::Status id = backend_->NewUniqueId().status();
  EXPECT_EQ(id.code(), absl::StatusCode::kFailedPrecondition) << id;
  EXPECT_THAT(std::string(id.message()), HasSubstr("NCCL needs a GPU"));
  EXPECT_THAT(std::string(id.message()), HasSubstr("driver"));
  const absl::Status connected =
      backend_->Connect({.device = 0, .unique_id = std::string(128, 'i')}, NewSingleRankCollective()).status();
  EXPECT_EQ(connected.code(), absl::StatusCode::kFailedPrecondition) << connected;
  EXPECT_THAT(std::string(connected.message()), HasSubstr("NCCL needs a GPU"));
}

}  // namespace
}  // namespace vlm::train
