// A rank's asynchronous saves: training hands over snapshots and goes on while they are written and reported.
#ifndef VLM_CHECKPOINT_CLIENT_STEP_WRITER_H_
#define VLM_CHECKPOINT_CLIENT_STEP_WRITER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/file_system.h"
#include "base/status.h"
#include "checkpoint/client/checkpoint_client.h"
#include "checkpoint/format/write_files.h"

namespace vlm::checkpoint {

struct SaveResult {
  absl::Status status;
  bool committed = false;        // the whole step, as far as this rank was told
  std::vector<FileClaim> files;  // of this rank, durable in the folder; those given as `written` first
  uint64_t bytes = 0;            // of `files`
  absl::Duration duration;
};

struct Save {
  StepToBegin step;    // as given to BeginStep
  std::string folder;  // as answered by it
  int rank = 0;
  std::vector<FileToWrite> files;
  std::vector<FileClaim> written;  // files of this rank already durable in the folder, sums included (AddSums)
  uint64_t snapshot_bytes = 0;     // memory the producers hold until the save ends
  bool wait_for_commit = false;    // the save ends when the whole step is committed, not just this part
  std::function<void(const SaveResult&)> done;  // on the writer's thread; may be empty
};

constexpr int kSavesInFlightMax = 4;  // twice the steps that a stage may have unfinished

struct StepWriterOptions {
  uint64_t bytes_in_flight_max = uint64_t{16} << 30;    // snapshots held at once, over all saves
  absl::Duration retry_for = absl::Minutes(10);         // AddPart, and giving up, while the service is away
  absl::Duration retry_first = absl::Milliseconds(50);  // doubles up to retry_most
  absl::Duration retry_most = absl::Seconds(2);
  // Called on a thread of the writer's, never on two at once, whenever some MiB were written, and whenever the service
  // has said that parts of other ranks are missing. May be empty.
  std::function<void()> advance = nullptr;
};

// Thread-safe. Saves are written one after another, in order, the files of one two at a time. A save that cannot be
// written, or whose part is refused, is given up (AbortStep), so that it keeps no place among the stage's unfinished
// steps. One that waits for its commit waits for other ranks as long as the service answers.
class StepWriter {
 public:
  // All must outlive the writer.
  StepWriter(FileSystem* files, const CheckpointClient* client, const Clock* clock, StepWriterOptions options);
  // Finishes the running save's current files, drops the rest (CANCELLED).
  ~StepWriter();

  // Queues a save and returns at once. RESOURCE_EXHAUSTED when its snapshot and those in flight are more than the
  // limit, or kSavesInFlightMax saves are: ask HasRoom before beginning the step, and skip it. INVALID_ARGUMENT for a
  // save without folder or with a repeated file name.
  absl::Status Start(Save save);

  // Waits until nothing is in flight; the first error since the last Wait, if any.
  absl::Status Wait();

  int saves_in_flight() const;
  // Whether Start would take a save with such a snapshot now. A save alone always has room, however large.
  bool HasRoom(uint64_t snapshot_bytes) const;

 private:
  class Worker;
  const std::unique_ptr<Worker> worker_;
};

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_CLIENT_STEP_WRITER_H_
