// Runs the stages of a job in one process: real stages, real files, real checkpoint service over the memory
// transport; ranks are threads, and a few lines stand in for worker and coordinator. For tests that ask what stages
// compute, not how they are scheduled, and for trying settings out.
#ifndef VLM_TESTS_INTEGRATION_STAGES_LOCAL_JOB_H_
#define VLM_TESTS_INTEGRATION_STAGES_LOCAL_JOB_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "spec/job.h"
#include "trainer/worker_link.h"

namespace vlm::trainer {

struct StageRun {
  int world = 1;
  int threads = 1;
  uint64_t stop_after_save = 0;  // the ranks are told to end once this step is committed; 0: run to the end
  FileSystem* files = PosixFileSystem();
  std::function<void(const Progress&)> on_progress = nullptr;  // whenever a rank reports it, on a thread of the rank's
  std::function<void(Phase)> on_phase = nullptr;               // likewise
  std::function<void(std::string_view series, double value)> on_metric = nullptr;  // likewise
  // Steps that are begun in the attempt, by nobody who writes them.
  std::vector<uint64_t> lost_steps = {};
  // Of a pool: the attempt is leased these shards alone and does not finish the stage; the next one leases the rest, as
  // after a restart. Empty: all that are left.
  std::vector<uint32_t> shards = {};
};

class LocalJob {
 public:
  // `folder` is made anew. `yaml` is a job file; INVALID_ARGUMENT with its diagnostics.
  static absl::StatusOr<std::unique_ptr<LocalJob>> Create(const std::string& folder, const std::string& job_file,
                                                          const std::vector<std::string>& overrides);
  ~LocalJob();

  const spec::Job& job() const;
  // Runs one attempt of a stage; its parents' artifacts must exist. Ends when every rank has ended; the first error.
  absl::Status RunStage(const std::string& name, const StageRun& run);
  // Every stage in order.
  absl::Status RunAll(const StageRun& run);
  // Folder of a stage's artifact, once it succeeded.
  std::string ArtifactFolder(const std::string& stage) const;

 private:
  struct State;
  explicit LocalJob(std::unique_ptr<State> state);
  const std::unique_ptr<State> state_;
};

}  // namespace vlm::trainer

#endif  // VLM_TESTS_INTEGRATION_STAGES_LOCAL_JOB_H_
