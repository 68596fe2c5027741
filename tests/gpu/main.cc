// Runs the tests that need a GPU. Without one it says why and ends with 77, which CTest reports as skipped.
#include <gtest/gtest.h>

#include <cstdio>

#include "train/cuda/cuda_library.h"

namespace {
constexpr int kSkipped = 77;
}

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const absl::Status status = vlm::train::LoadCudaDevices();
  if (!status.ok()) {
    std::printf("SKIPPED: %s\n", std::string(status.message()).c_str());
    return kSkipped;
  }
  return RUN_ALL_TESTS();
}
