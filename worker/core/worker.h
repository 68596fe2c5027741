// The worker's decisions, without gRPC or the operating system: Handle(now, input) -> outputs.
//
// The shell (worker/) and the simulation feed what happened and carry out what comes back, in order. `now` is
// the machine's CLOCK_BOOTTIME and never goes back. Not thread-safe: one thread of control.
//
// Session numbers. SessionRequest.sequence grows over the whole incarnation; what has not been acknowledged is
// sent again after a reconnect under a new number (receivers dedupe on attempt, fence, rank and kind).
// SessionResponse.sequence is compared within one connection only: a number not above the last handled is a
// repeat and is dropped. A response with an epoch below the highest seen closes the session.
#ifndef VLM_WORKER_CORE_WORKER_H_
#define VLM_WORKER_CORE_WORKER_H_

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "vlm/v1/trainer.pb.h"
#include "vlm/v1/worker.pb.h"

namespace vlm::worker {

struct RankKey {
  std::string attempt_id;
  uint64_t fence = 0;
  int32_t rank = 0;
  friend auto operator<=>(const RankKey&, const RankKey&) = default;
  std::string ToString() const;  // "<attempt_id> rank 3"
};

// The folder private to one rank: "<run_root>/<stage_uid hex>-<fence>-r<rank>".
std::string RunFolder(const std::string& run_root, const RankKey& key);

struct WorkerOptions {
  v1::Hello identity;  // node, incarnation, boot, devices, build ...; the core fills held, shards and the rest
  std::vector<v1::RankResult> stored_results;  // of earlier incarnations, not yet acknowledged
  std::vector<std::string> data_roots;         // passed to trainers in Start
  std::string run_root;                        // run_folder of a rank is below it
  absl::Duration beat_interval = absl::Seconds(1);
  absl::Duration orphan_grace = absl::Minutes(10);     // replaced by Welcome's
  absl::Duration attach_grace = absl::Seconds(60);     // spawn to the first Attach
  absl::Duration frozen_after = absl::Seconds(10);     // without a trainer's beat
  absl::Duration stop_grace = absl::Seconds(10);       // TERM to KILL when the order names none
  absl::Duration welcome_timeout = absl::Seconds(10);  // Hello to Welcome; then the session is opened anew
  absl::Duration result_resend = absl::Seconds(5);
};

// --- what happened ---
struct SessionOpened {};  // the stream to the coordinator is up
struct SessionLost {
  std::string reason;
};  // it broke, or could not be opened
struct FromCoordinator {
  v1::SessionResponse message;
};
struct RankSpawned {
  RankKey rank;
  int32_t pid = 0;
};
struct RankSpawnFailed {
  RankKey rank;
  std::string error;
};
struct RankReaped {
  RankKey rank;
  int exit_code = 0;  // when signal is 0
  int signal = 0;
  bool oom_killed = false;  // the memory limit killed a process of this worker's group meanwhile
};
struct FromTrainer {
  RankKey rank;
  v1::AttachRequest message;
};  // its token has been checked
struct TrainerDetached {
  RankKey rank;
};
struct ResultStored {
  RankKey rank;
};  // answers StoreResult: durable now
struct RootRead {
  std::string root;
  std::string error;
};  // answers ReadNonce; empty error: equal
struct ShardsLeased {
  RankKey rank;
  std::vector<v1::HeldShard> shards;
};
struct ShardReleased {
  v1::HeldShard shard;
};  // committed, failed or refused
struct DiskMeasured {
  uint64_t free_bytes = 0;
};
struct TimePassed {};         // fed when NextWake() is reached; harmless at any time
struct ShutdownRequested {};  // stop the ranks, deliver what can be delivered, then Finish

using Input = std::variant<SessionOpened, SessionLost, FromCoordinator, RankSpawned, RankSpawnFailed, RankReaped,
                           FromTrainer, TrainerDetached, ResultStored, RootRead, ShardsLeased, ShardReleased,
                           DiskMeasured, TimePassed, ShutdownRequested>;

// --- what to do ---
struct OpenSession {};  // answered by SessionOpened or SessionLost; after a SessionLost
                        // the shell tries again by itself, with backoff
struct CloseSession {
  std::string reason;
};  // then as after SessionLost, which need not be fed
struct SendToCoordinator {
  v1::SessionRequest message;
};
struct SpawnRank {
  RankKey rank;
  v1::Device device;
  v1::AttemptSpec spec;
};
struct SignalRank {
  RankKey rank;
  int32_t pid = 0;
  int signal = 0;
};
struct SendToTrainer {
  RankKey rank;
  v1::AttachResponse message;
};
struct StoreResult {
  RankKey rank;
  v1::RankResult result;
};  // answered by ResultStored
struct RemoveResult {
  RankKey rank;
};  // acknowledged
struct ForgetRank {
  RankKey rank;
};  // reaped: close its attach stream, revoke its token
struct ReadNonce {
  v1::CheckRoot check;
};  // answered by RootRead
struct StoreEpoch {
  uint64_t epoch = 0;
};  // the highest seen; given back in identity.epoch_seen
struct Note {
  std::string text;
};  // a decision and its reason, for the log
struct Finish {};  // after ShutdownRequested: exit now

using Output = std::variant<OpenSession, CloseSession, SendToCoordinator, SpawnRank, SignalRank, SendToTrainer,
                            StoreResult, RemoveResult, ForgetRank, ReadNonce, StoreEpoch, Note, Finish>;

class Worker {
 public:
  explicit Worker(WorkerOptions options);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Call once, before anything else: asks for the session.
  std::vector<Output> Start(absl::Duration now);
  std::vector<Output> Handle(absl::Duration now, const Input& input);
  // When TimePassed should be fed next; InfiniteDuration when nothing is pending.
  absl::Duration NextWake() const;

  // Read-only views, for metrics and tests.
  struct RankView {
    RankKey key;
    int32_t pid = 0;
    v1::RankPhase phase = v1::RANK_PHASE_ASSIGNED;
    bool attached = false;
    bool stopping = false;
    int32_t device_index = 0;
    v1::RankBeat beat;
    std::string job_id;
    std::string stage;
  };
  std::vector<RankView> Ranks() const;  // held: assigned and not yet reaped, in key order
  bool connected() const;               // welcomed and not lost since
  uint64_t epoch_seen() const;
  size_t results_waiting() const;  // not yet acknowledged

 private:
  class Core;
  std::unique_ptr<Core> core_;
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_CORE_WORKER_H_
