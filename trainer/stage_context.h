// What every stage kind gets to run with.
#ifndef VLM_TRAINER_STAGE_CONTEXT_H_
#define VLM_TRAINER_STAGE_CONTEXT_H_

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file_system.h"
#include "base/status.h"
#include "checkpoint/client/checkpoint_client.h"
#include "spec/stage.h"
#include "trainer/worker_link.h"

namespace vlm::trainer {

struct StageContext {
  const Assignment* assignment = nullptr;
  const spec::Stage* stage = nullptr;
  WorkerLink* link = nullptr;
  const checkpoint::CheckpointClient* checkpoints = nullptr;
  FileSystem* files = nullptr;
  const Clock* clock = nullptr;
  // A training stage ends, cleanly and without an artifact, once this step is committed; 0: it runs to its end.
  // Where a run is cut in two on purpose: tests of resuming, and later a drain.
  uint64_t last_step = 0;

  // The artifact of an earlier stage. NOT_FOUND names the stage.
  absl::StatusOr<InputArtifact> Input(const std::string& stage) const;
  // The user's files that match `pattern`, by the rules of data::ResolvePattern on the worker's data roots. NOT_FOUND,
  // PERMISSION_DENIED and FAILED_PRECONDITION (no root) are marked as a user's error.
  absl::StatusOr<std::vector<std::string>> DataFiles(const std::string& pattern) const;
  // Folder of this stage's files: <artifacts>/jobs/<job>/<stage>.
  std::string StageFolder() const;
};

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_STAGE_CONTEXT_H_
