// The small job in a folder of its own, and what stages left there.
#ifndef VLM_TESTS_INTEGRATION_STAGES_STAGE_RUNS_H_
#define VLM_TESTS_INTEGRATION_STAGES_STAGE_RUNS_H_

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/file_system.h"
#include "tests/integration/stages/local_job.h"

namespace vlm::trainer {

inline constexpr char kTinyJob[] = VLM_SOURCE_DIR "/examples/shapes/tiny.yaml";

inline std::string FolderOf(const std::string& name) { return testing::TempDir() + "stages-" + name; }

inline std::unique_ptr<LocalJob> NewJob(const std::string& name, const std::vector<std::string>& overrides = {}) {
  absl::StatusOr<std::unique_ptr<LocalJob>> job = LocalJob::Create(FolderOf(name), kTinyJob, overrides);
  EXPECT_TRUE(job.ok()) << job.status();
  return *std::move(job);
}

// Every file of an artifact but those that may say how it was made.
inline std::map<std::string, std::string> Contents(const std::string& folder) {
  std::map<std::string, std::string> contents;
  const absl::StatusOr<std::vector<std::string>> names = PosixFileSystem()->List(folder);
  EXPECT_TRUE(names.ok()) << names.status();
  if (!names.ok()) return contents;
  for (const std::string& name : *names) {
    if (name.starts_with("COMMITTED.json")) continue;  // or the temporary it is being renamed from
    contents[name] = *ReadFile(PosixFileSystem(), folder + "/" + name, 1 << 30);
  }
  return contents;
}

inline void ExpectSameFiles(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b) {
  for (const auto& [name, contents] : a) {
    ASSERT_EQ(b.count(name), 1u) << name;
    EXPECT_TRUE(contents == b.at(name)) << name << " differs";
  }
  EXPECT_EQ(a.size(), b.size());
}

inline void RunUpTo(LocalJob* job, const std::string& last, const StageRun& run) {
  for (const spec::Stage& stage : job->job().stages) {
    const absl::Status status = job->RunStage(stage.name, run);
    ASSERT_TRUE(status.ok()) << stage.name << ": " << status;
    if (stage.name == last) return;
  }
}

}  // namespace vlm::trainer

#endif  // VLM_TESTS_INTEGRATION_STAGES_STAGE_RUNS_H_
