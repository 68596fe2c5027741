#include "checkpoint/client/step_writer.h"

#include <algorithm>
#include <deque>
#include <iterator>
#include <optional>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/crash_point.h"
#include "base/mutex.h"

namespace vlm::checkpoint {
namespace {

// The service has said nothing about the call itself: it is away, or a worker has no place for one more call.
bool MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status);
}

absl::Status CheckSave(const Save& save) {
  if (save.folder.empty()) return absl::InvalidArgumentError("save has no folder; call BeginStep first");
  std::set<std::string> names;
  for (const FileClaim& claim : save.written) names.insert(claim.name);
  for (const FileToWrite& file : save.files) {
    if (file.name.empty() || !names.insert(file.name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("save has a file without a name, or one named twice: \"", file.name, "\""));
    }
  }
  return absl::OkStatus();
}

}  // namespace

class StepWriter::Worker {
 public:
  Worker(FileSystem* files, const CheckpointClient* client, const Clock* clock, StepWriterOptions options)
      : files_(files), client_(client), clock_(clock), options_(options), thread_([this] { Run(); }) {}

  ~Worker() {
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
    }
    changed_.NotifyAll();
    thread_.join();
  }

  absl::Status Start(Save save) {
    VLM_RETURN_IF_ERROR(CheckSave(save));
    MutexLock lock(&mutex_);
    if (!Fits(save.snapshot_bytes)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("too many saves or snapshots are in flight; skip this one: ", save.snapshot_bytes,
                       " bytes beside ", bytes_in_flight_, " of ", saves_in_flight_, " saves, limits ",
                       options_.bytes_in_flight_max, " bytes and ", kSavesInFlightMax, " saves"));
    }
    bytes_in_flight_ += save.snapshot_bytes;
    ++saves_in_flight_;
    queue_.push_back(std::move(save));
    changed_.NotifyAll();
    return absl::OkStatus();
  }

  absl::Status Wait() {
    MutexLock lock(&mutex_);
    while (saves_in_flight_ > 0) changed_.Wait(&mutex_);
    return std::exchange(first_error_, absl::OkStatus());
  }

  int saves_in_flight() const {
    MutexLock lock(&mutex_);
    return saves_in_flight_;
  }

  bool HasRoom(uint64_t snapshot_bytes) const {
    MutexLock lock(&mutex_);
    return Fits(snapshot_bytes);
  }

 private:
  bool Fits(uint64_t snapshot_bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (saves_in_flight_ == 0) return true;
    const uint64_t left = options_.bytes_in_flight_max - std::min(options_.bytes_in_flight_max, bytes_in_flight_);
    return saves_in_flight_ < kSavesInFlightMax && snapshot_bytes <= left;
  }

  void Run() {
    while (std::optional<Save> save = Next()) {
      const absl::Duration begin = clock_->Monotonic();
      SaveResult result;
      result.status = Perform(*save, &result);
      result.duration = clock_->Monotonic() - begin;
      const std::function<void(const SaveResult&)> done = std::move(save->done);
      const uint64_t snapshot_bytes = save->snapshot_bytes;
      save.reset();  // the snapshot's memory goes before anyone is told
      if (done) done(result);
      MutexLock lock(&mutex_);
      bytes_in_flight_ -= snapshot_bytes;
      --saves_in_flight_;
      if (first_error_.ok()) first_error_ = result.status;
      changed_.NotifyAll();
    }
  }

  // Nothing once stopped and drained.
  std::optional<Save> Next() {
    MutexLock lock(&mutex_);
    while (queue_.empty() && !stopping_) changed_.Wait(&mutex_);
    if (queue_.empty()) return std::nullopt;
    Save save = std::move(queue_.front());
    queue_.pop_front();
    return save;
  }

  bool stopping() const {
    MutexLock lock(&mutex_);
    return stopping_;
  }

  absl::Status Perform(Save& save, SaveResult* result) {
    PartToAdd part{save.step.stage_uid, save.step.fence, save.step.step, save.rank, save.written};
    absl::StatusOr<std::vector<FileClaim>> claims = WriteFiles(
        files_, save.folder, &save.files, {.advance = options_.advance, .stopping = [this] { return stopping(); }});
    if (absl::IsCancelled(claims.status())) return claims.status();  // this writer is going, not the save's place
    if (!claims.ok()) return GiveUp(save, claims.status());
    std::move(claims->begin(), claims->end(), std::back_inserter(part.files));
    for (const FileClaim& claim : part.files) result->bytes += claim.bytes;
    result->files = part.files;
    CrashPoint("save.part_done");
    return Report(save, part, result);
  }

  // A save that cannot be written or reported must not count as being written for the rest of the attempt. The result
  // is `error`, with what became of giving the step up when it could not be.
  absl::Status GiveUp(const Save& save, const absl::Status& error) {
    CrashPoint("save.given_up");
    const absl::Duration end = clock_->Monotonic() + options_.retry_for;
    absl::Duration pause = options_.retry_first;
    while (true) {
      const absl::Status aborted = client_->AbortStep(save.step.stage_uid, save.step.step, save.step.fence);
      // Refused: the attempt was replaced, or the step was committed or given up by another rank.
      if (aborted.ok() || absl::IsFailedPrecondition(aborted)) return error;
      if (!MayPass(aborted) || clock_->Monotonic() + pause > end || !Pause(pause)) {
        return absl::Status(error.code(),
                            absl::StrCat(error.message(), "; and the step could not be given up: ", aborted.message()));
      }
      pause = std::min(2 * pause, options_.retry_most);
    }
  }

  absl::Status Report(const Save& save, const PartToAdd& part, SaveResult* result) {
    absl::Duration away_end = clock_->Monotonic() + options_.retry_for;
    absl::Duration pause = options_.retry_first;
    while (true) {
      const absl::StatusOr<bool> committed = client_->AddPart(part);
      if (committed.ok()) {
        result->committed = *committed;
        if (*committed || !save.wait_for_commit) return absl::OkStatus();
        // Other ranks still write. How long they may take is for who watches their progress to say.
        if (options_.advance) options_.advance();
        away_end = clock_->Monotonic() + options_.retry_for;
      } else if (!MayPass(committed.status())) {
        return GiveUp(save, committed.status());
      } else if (clock_->Monotonic() + pause > away_end) {
        return GiveUp(save, Annotate(committed.status(), "the checkpoint service stayed away"));
      }
      if (!Pause(pause)) return absl::CancelledError("the writer was closed before the step was reported");
      pause = std::min(2 * pause, options_.retry_most);
    }
  }

  // False when the writer is being destroyed.
  bool Pause(absl::Duration pause) {
    const absl::Duration until = clock_->Monotonic() + pause;
    MutexLock lock(&mutex_);
    while (!stopping_) {
      const absl::Duration left = until - clock_->Monotonic();
      if (left <= absl::ZeroDuration()) return true;
      changed_.WaitFor(&mutex_, left);
    }
    return false;
  }

  FileSystem* const files_;
  const CheckpointClient* const client_;
  const Clock* const clock_;
  const StepWriterOptions options_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Save> queue_ ABSL_GUARDED_BY(mutex_);  // bounded by kSavesInFlightMax
  uint64_t bytes_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  int saves_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status first_error_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: starts when everything above exists
};

StepWriter::StepWriter(FileSystem* files, const CheckpointClient* client, const Clock* clock, StepWriterOptions options)
    : worker_(std::make_unique<Worker>(files, client, clock, options)) {}
StepWriter::~StepWriter() = default;

absl::Status StepWriter::Start(Save save) { return worker_->Start(std::move(save)); }
absl::Status StepWriter::Wait() { return worker_->Wait(); }
int StepWriter::saves_in_flight() const { return worker_->saves_in_flight(); }
bool StepWriter::HasRoom(uint64_t snapshot_bytes) const { return worker_->HasRoom(snapshot_bytes); }

}  // namespace vlm::checkpoint
