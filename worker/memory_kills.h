// Which deaths by SIGKILL were for want of memory, told from a count that is shared: by all ranks of the worker, and by
// whatever else lives in their control group, or on the machine.
#ifndef VLM_WORKER_MEMORY_KILLS_H_
#define VLM_WORKER_MEMORY_KILLS_H_

#include <cstdint>
#include <deque>

#include "absl/time/time.h"

namespace vlm::worker {

// A kill counts for one death, and for one that is seen soon after it. Not thread-safe.
class MemoryKills {
 public:
  // From the reading in which a kill is first counted to the end of the process: the kernel takes a large process apart
  // for seconds. A kill that is older was not a rank's.
  static constexpr absl::Duration kFresh = absl::Seconds(10);

  // `count`: ReadOutOfMemoryKills (worker/device_probe.h) now; what was killed before is nobody's.
  explicit MemoryKills(uint64_t count) : count_(count) {}

  // What ReadOutOfMemoryKills says at `now`, a monotonic time. To be told every few seconds: a kill is as old as the
  // reading in which it is first counted. A count that falls begins anew (another control group).
  void Read(absl::Duration now, uint64_t count);

  // Whether a process that died of a SIGKILL not ours, as is seen at `now`, was killed for its memory. Uses up the
  // kill.
  bool Take(absl::Duration now);

 private:
  struct Kills {
    absl::Duration seen;
    uint64_t number;
  };
  void Forget(absl::Duration now);

  uint64_t count_;
  std::deque<Kills> kills_;  // by age, none of them taken
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_MEMORY_KILLS_H_
