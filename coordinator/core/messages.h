// What goes into the coordinator's core and what comes out of it, as data.
#ifndef VLM_COORDINATOR_CORE_MESSAGES_H_
#define VLM_COORDINATOR_CORE_MESSAGES_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/key_value.h"
#include "spec/canonical.h"
#include "spec/job.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/data.pb.h"
#include "vlm/v1/job.pb.h"
#include "vlm/v1/worker.pb.h"

namespace vlm::coordinator {

// Durations are measured on `monotonic` (CLOCK_BOOTTIME, never back); `wall` is for display only.
struct Now {
  absl::Duration monotonic;
  absl::Time wall;
};

// --- what happened ---
// `call` is the shell's number for a request; exactly one Reply of the same Handle carries it.
// Whatever depends on the job file alone is made with the message, on the thread that makes it: there is one thread
// that decides.
struct SubmitJob {
  SubmitJob(uint64_t call_number, spec::Job parsed, std::string yaml, std::string request, std::string who);

  uint64_t call = 0;
  spec::Job job;                                    // parsed from job_yaml, without diagnostics
  std::vector<spec::CanonicalStage> stages;         // of job.stages, in their order
  std::vector<std::vector<std::string>> ancestors;  // likewise
  std::string job_yaml;                             // as received
  std::string payload;                              // of request_id: the digest of job_yaml
  std::string request_id;
  std::string actor;  // for the record; may be empty
  // Why no new job may be stored now; OK: it may. A request_id that has its job is answered all the same.
  absl::Status room;
};
struct CancelJob {
  uint64_t call = 0;
  v1::CancelJobRequest request;
  std::string actor;
};
struct RetryJob {
  uint64_t call = 0;
  v1::RetryJobRequest request;
  std::string actor;
};

// From the worker `node_id` for one of its ranks; refused when the shard is leased to a rank of another.
struct LeaseShards {
  uint64_t call = 0;
  std::string node_id;
  v1::LeaseShardsRequest request;
};
struct CommitShard {
  uint64_t call = 0;
  std::string node_id;
  v1::CommitShardRequest request;
};
struct FailShard {
  uint64_t call = 0;
  std::string node_id;
  v1::FailShardRequest request;
};
struct ListShards {
  uint64_t call = 0;
  std::string node_id;
  v1::ListShardsRequest request;
};

// `session` is the shell's number of a worker's stream, never used twice. The first message is Hello.
struct FromWorker {
  uint64_t session = 0;
  v1::SessionRequest message;
};
struct SessionClosed {
  uint64_t session = 0;
};

// Answers of the checkpoint service. An answer that is no longer wanted is ignored.
struct AttemptOpened {
  std::string stage_uid;
  uint64_t fence = 0;
  absl::Status status;
  v1::OpenAttemptResponse response;
};
struct ArtifactCommitted {
  std::string stage_uid;
  uint64_t fence = 0;
  absl::Status status;
  v1::CommitArtifactResponse response;
};
struct StepVerified {
  std::string for_stage;  // as in the effect
  v1::VerifyStepRequest request;
  absl::Status status;
  v1::VerifyStepResponse response;
};
// A hint, as soon as the shell sees a step commit: committed progress resets retry budgets. When it is lost,
// the next OpenAttempt tells the same.
struct StepCommitted {
  std::string stage_uid;
  uint64_t fence = 0;
  uint64_t step = 0;
};

struct NonceWritten {
  std::string root;
  std::string nonce_file;
  std::string nonce;
  absl::Status status;
};
// Fed when NextWake() is reached, after every message that has already arrived; harmless at any time.
struct TimePassed {};

using Input = std::variant<SubmitJob, CancelJob, RetryJob, LeaseShards, CommitShard, FailShard, ListShards, FromWorker,
                           SessionClosed, AttemptOpened, ArtifactCommitted, StepVerified, StepCommitted, NonceWritten,
                           TimePassed>;

// --- what to do ---
struct SendToWorker {
  uint64_t session = 0;
  v1::SessionResponse message;
};
struct CloseSession {
  uint64_t session = 0;
  absl::Status status;
};  // answered by no SessionClosed
struct OpenAttempt {
  v1::OpenAttemptRequest request;
};  // answered by AttemptOpened
struct CommitArtifact {
  v1::CommitArtifactRequest request;
};  // answered by ArtifactCommitted
// An older stage's artifact is read again before `for_stage` reuses it; answered by StepVerified.
struct VerifyStep {
  std::string for_stage;
  v1::VerifyStepRequest request;
};
// Write a small file with random bytes below `root` (made when missing); answered by NonceWritten.
struct WriteNonce {
  std::string root;
};

using Effect = std::variant<SendToWorker, CloseSession, OpenAttempt, CommitArtifact, VerifyStep, WriteNonce>;

struct Reply {
  uint64_t call = 0;
  absl::Status status;
  std::variant<std::monostate, v1::SubmitJobResponse, v1::CancelJobResponse, v1::RetryJobResponse,
               v1::LeaseShardsResponse, v1::CommitShardResponse, v1::FailShardResponse, v1::ListShardsResponse>
      response;  // monostate only when `status` is not OK
};

// What Handle decided. `writes` is one batch, to be synced; everything else leaves, in order, only after this
// batch and every earlier one is durable. When a sync fails the process must end: memory is ahead of the disk.
struct Outputs {
  std::vector<Mutation> writes;
  std::vector<v1::Event> events;  // also in `writes`; for live watchers
  std::vector<Reply> replies;
  std::vector<Effect> effects;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_MESSAGES_H_
