#include "tests/integration/equality/outcome.h"

#include <gtest/gtest.h>

#include <cstring>
#include <span>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/file_system.h"
#include "tests/unit/train/gang_run.h"
#include "tests/unit/train/must.h"

namespace vlm::train {
namespace {

constexpr uint64_t kBytesMax = 1 << 30;

std::string OutcomeFile(const std::string& folder, int rank, const std::string& name) {
  return absl::StrCat(folder, "/out-", rank, "/", name);
}

void Write(const std::string& path, std::string_view bytes) {
  Must(MakeDirectories(PosixFileSystem(), path.substr(0, path.rfind('/'))));
  const auto file = Must(PosixFileSystem()->Create(path));
  Must(file->Append(std::as_bytes(std::span(bytes.data(), bytes.size()))));
  Must(file->Close());
}

}  // namespace

std::string NewFolder(const std::string& name) {
  const std::string folder = testing::TempDir() + "equality-" + name;
  Must(RemoveTree(PosixFileSystem(), folder));
  Must(MakeDirectories(PosixFileSystem(), folder));
  return folder;
}

void WriteOutcome(const std::string& folder, int rank, const std::vector<StepFigures>& steps, ParameterStore* store) {
  Write(OutcomeFile(folder, rank, "steps"),
        {reinterpret_cast<const char*>(steps.data()), steps.size() * sizeof(StepFigures)});
  for (const auto& [name, weight] : AllWeights(store)) {
    const at::Tensor flat = weight.contiguous();
    Write(OutcomeFile(folder, rank, "weights/" + name),
          {static_cast<const char*>(flat.const_data_ptr()), flat.nbytes()});
  }
}

Outcome ReadOutcome(const std::string& folder, int rank) {
  Outcome outcome;
  const std::string steps = Must(ReadFile(PosixFileSystem(), OutcomeFile(folder, rank, "steps"), kBytesMax));
  outcome.steps.resize(steps.size() / sizeof(StepFigures));
  std::memcpy(outcome.steps.data(), steps.data(), outcome.steps.size() * sizeof(StepFigures));
  const std::string weights = OutcomeFile(folder, rank, "weights");
  for (const std::string& name : Must(PosixFileSystem()->List(weights))) {
    outcome.weights[name] = Must(ReadFile(PosixFileSystem(), weights + "/" + name, kBytesMax));
  }
  return outcome;
}

void ExpectSame(const Outcome& expected, const Outcome& actual) {
  ASSERT_EQ(actual.steps.size(), expected.steps.size());
  for (size_t i = 0; i < expected.steps.size(); ++i) {
    ASSERT_EQ(actual.steps[i].loss, expected.steps[i].loss) << "step " << i << " from the first";
    ASSERT_EQ(actual.steps[i].norm, expected.steps[i].norm) << "step " << i << " from the first";
  }
  ASSERT_EQ(actual.weights.size(), expected.weights.size());
  for (const auto& [name, bytes] : expected.weights) {
    ASSERT_EQ(actual.weights.count(name), 1u) << name;
    EXPECT_TRUE(actual.weights.at(name) == bytes) << name << " differs";
  }
}

}  // namespace vlm::train
