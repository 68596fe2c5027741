// One rank as the worker's core knows it, from Assign until its result is durable.
#ifndef VLM_WORKER_CORE_HELD_RANK_H_
#define VLM_WORKER_CORE_HELD_RANK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "worker/core/exit_class.h"
#include "worker/core/worker.h"

namespace vlm::worker {

struct HeldRank {
  RankKey key;
  v1::Device device;
  v1::AttemptSpec spec;
  int32_t world = 0;
  std::string secret;

  bool spawning = false;  // SpawnRank is out, not answered
  int32_t pid = 0;        // 0: no process
  bool reaped = false;    // only its result is missing on disk
  bool attached = false;
  v1::RankPhase phase = v1::RANK_PHASE_ASSIGNED;
  std::optional<v1::Endpoint> endpoint;
  std::optional<v1::Rendezvous> rendezvous;
  v1::RankBeat beat;
  std::string failure_message;  // said by the trainer before it ended
  std::vector<v1::HeldShard> shards;
  v1::RankResult result;  // once reaped

  absl::Duration alive_at;  // spawn, hello or beat, whichever was last
  bool said_hello = false;  // once; a broken attach stream does not undo it
  Ending ending = Ending::kNone;
  absl::Duration kill_at = absl::InfiniteDuration();  // while ending

  // A process exists or is being made.
  bool runs() const { return (spawning || pid != 0) && !reaped; }
};

// The text RankResult.message holds at most.
inline constexpr size_t kResultMessageBytesMax = 4096;

}  // namespace vlm::worker

#endif  // VLM_WORKER_CORE_HELD_RANK_H_
