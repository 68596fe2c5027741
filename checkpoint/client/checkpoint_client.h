// Calls of the checkpoint service, in the project's own types.
#ifndef VLM_CHECKPOINT_CLIENT_CHECKPOINT_CLIENT_H_
#define VLM_CHECKPOINT_CLIENT_CHECKPOINT_CLIENT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "checkpoint/format/durable_file.h"
#include "rpc/channel.h"

namespace vlm::checkpoint {

struct AttemptToOpen {
  std::string stage_uid;  // 16 bytes
  uint64_t fence = 0;
  std::string job_id;
  std::string stage;
  std::string root;  // artifacts root
  uint32_t keep_last = 3;
  uint64_t keep_every = 0;
};

struct OpenedAttempt {
  uint64_t step = 0;  // 0: from the beginning
  std::string folder;
  std::string cursor;
  bool final = false;  // the stage's last step is complete: publish, start no rank
};

struct StepToBegin {
  std::string stage_uid;
  uint64_t fence = 0;
  uint64_t step = 0;
  int world = 1;
  uint64_t parent_step = 0;
  std::string cursor;
  bool final = false;
  uint64_t reserve_bytes = 0;
};

struct PartToAdd {
  std::string stage_uid;
  uint64_t fence = 0;
  uint64_t step = 0;
  int rank = 0;
  std::vector<FileClaim> files;
};

struct Artifact {
  std::string digest;  // hex
  std::string folder;
  uint64_t bytes = 0;
  uint64_t step = 0;
};

enum class StepStatus { kUnknown, kWriting, kComplete, kDamaged, kDeleting };

struct StepInfo {
  std::string stage_uid, job_id, stage;
  uint64_t step = 0;
  uint64_t fence = 0;
  StepStatus status = StepStatus::kUnknown;
  std::string folder;
  uint64_t bytes = 0;
  int world = 0;
  uint64_t parent_step = 0;
  bool final = false;
  std::vector<FileClaim> files;                    // empty in lists
  std::vector<std::string> holds;                  // "RESUME(17)", "OUTPUT"
  absl::Time committed_at = absl::InfinitePast();  // not yet
  absl::Time verified_at = absl::InfinitePast();
  std::string damage;
};

struct VerifiedStep {
  std::vector<FileDamage> damages;  // empty: as committed
  uint64_t bytes = 0;
};

// Thread-safe; each call blocks up to its deadline. Not from a thread of the transport. Errors are the service's
// (proto/vlm/v1/checkpoint.proto), UNAVAILABLE when it cannot be reached, DEADLINE_EXCEEDED.
class CheckpointClient {
 public:
  // `channel` must outlive the client. `options.metadata` carries the caller's token.
  CheckpointClient(rpc::Channel* channel, rpc::CallOptions options) : channel_(channel), options_(std::move(options)) {}

  absl::StatusOr<OpenedAttempt> OpenAttempt(const AttemptToOpen& attempt) const;
  // The step's folder. `away_max`, of this call and of AbortStep: a worker that passes the call on gives up with
  // UNAVAILABLE when the service is away for longer. The step may have been begun all the same.
  absl::StatusOr<std::string> BeginStep(const StepToBegin& step,
                                        absl::Duration away_max = absl::InfiniteDuration()) const;
  absl::StatusOr<bool> AddPart(const PartToAdd& part) const;  // whether the step is committed
  absl::StatusOr<Artifact> CommitArtifact(const std::string& stage_uid, uint64_t fence, const std::string& kind) const;
  absl::StatusOr<StepInfo> GetStep(const std::string& stage_uid, uint64_t step) const;
  absl::StatusOr<StepInfo> GetLatest(const std::string& stage_uid) const;  // newest COMPLETE; NOT_FOUND: none
  absl::StatusOr<std::vector<StepInfo>> ListStepsOfJob(const std::string& job_id) const;
  absl::StatusOr<std::vector<StepInfo>> ListStepsOfStage(const std::string& stage_uid) const;
  absl::Status DeleteStep(const std::string& stage_uid, uint64_t step) const;
  // Gives up an unfinished step of this attempt: the other ranks' parts are refused, the folder is removed.
  absl::Status AbortStep(const std::string& stage_uid, uint64_t step, uint64_t fence,
                         absl::Duration away_max = absl::InfiniteDuration()) const;
  // The service reads the step again; one that is not as committed is DAMAGED from then on, and resumed from no more.
  // `before_others`: a rank waits for the answer, not behind what people ask for.
  absl::StatusOr<VerifiedStep> VerifyStep(const std::string& stage_uid, uint64_t step, absl::Duration deadline,
                                          bool before_others = false) const;

 private:
  rpc::Channel* const channel_;
  const rpc::CallOptions options_;
};

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_CLIENT_CHECKPOINT_CLIENT_H_
