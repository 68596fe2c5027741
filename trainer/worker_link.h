// A rank's only connection to the service: its worker, over a Unix socket.
//
// Names no Protobuf type, so that stages may include it beside LibTorch.
#ifndef VLM_TRAINER_WORKER_LINK_H_
#define VLM_TRAINER_WORKER_LINK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"
#include "rpc/channel.h"

namespace vlm::trainer {

struct InputArtifact {
  std::string stage, kind, folder, digest;
};

// What the worker tells a rank at its start.
struct Assignment {
  std::string attempt_id, job_id, stage, stage_uid, stage_json;
  uint64_t fence = 0;
  int rank = 0, world = 1;
  uint64_t seed = 0;
  std::string artifacts;  // root folder
  std::vector<InputArtifact> inputs;
  uint64_t resume_step = 0;  // 0: from the beginning
  std::string resume_folder, resume_cursor;
  uint32_t shards = 0;  // of a pool
  bool cuda = false;
  int device_index = 0, threads = 1;
  std::string secret, run_folder;
  std::vector<std::string> data_roots;
};

struct LinkEndpoint {
  std::string unix_socket, tcp, boot_id, nccl_unique_id;
};

enum class Phase { kInit, kLoad, kStep, kEval, kSave, kPublish };

// What the heartbeat carries; written by the stage, read by the beat thread.
struct Progress {
  uint64_t counter = 0;  // grows whenever work was done in the phase
  uint64_t step = 0;
  double loss = 0, tokens_per_second = 0, images_per_second = 0;
};

struct LinkOptions {
  std::string socket;  // path
  std::string token;   // of the attempt
  std::string attempt_id;
  int rank = 0;
  absl::Duration beat_interval = absl::Milliseconds(200);
  absl::Duration orphan_grace = absl::Seconds(30);  // without a worker; then the process ends itself
};

// Thread-safe. A thread of its own sends beats; when the stream stays broken for the grace, it ends the process.
class WorkerLink {
 public:
  // Attaches and waits for the assignment. UNAVAILABLE, DEADLINE_EXCEEDED, PERMISSION_DENIED; FAILED_PRECONDITION for
  // an assignment that is not this rank's or makes no sense.
  static absl::StatusOr<std::unique_ptr<WorkerLink>> Connect(const LinkOptions& options, const Clock* clock);
  // Over a channel to the worker that is there already.
  static absl::StatusOr<std::unique_ptr<WorkerLink>> Connect(const LinkOptions& options,
                                                             std::unique_ptr<rpc::Channel> channel, const Clock* clock);
  virtual ~WorkerLink() = default;

  virtual const Assignment& assignment() const = 0;
  // Posts where this rank can be reached (it is then READY) and waits for every rank's endpoint. The first set of
  // endpoints stays: one that comes again, after a restart of the coordinator or a reconnect, changes nothing.
  // UNAVAILABLE after `timeout`; FAILED_PRECONDITION when there is not one endpoint for each rank.
  virtual absl::StatusOr<std::vector<LinkEndpoint>> Rendezvous(const LinkEndpoint& mine, absl::Duration timeout) = 0;
  // READY without peers: a pool's rank.
  virtual void PostReady() = 0;

  virtual void SetPhase(Phase phase) = 0;
  virtual void SetProgress(const Progress& progress) = 0;
  // Called by the beat thread for the sequence number of the last collective; nullptr when there is none.
  virtual void WatchCollective(std::function<uint64_t()> sequence) = 0;
  // Queued and sent with the next beat; dropped and counted when 10,000 wait.
  virtual void AddMetric(std::string_view series, uint64_t step, double value) = 0;
  // So that the reason survives a non-zero exit. Blocks until sent, at most a second.
  virtual void ReportFailure(int exit_code, std::string_view message) = 0;
  // Sends what is queued; at most a second.
  virtual void Flush() = 0;

  // To the worker's proxies of DataService and CheckpointService, with the attempt's token. A call waits for a
  // coordinator that is away as long as the worker lets the rank live without one.
  virtual rpc::Channel* channel() = 0;
  virtual rpc::CallOptions call_options() const = 0;
};

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_WORKER_LINK_H_
