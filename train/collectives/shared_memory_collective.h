// Collectives between processes of one machine over shared memory.
//
// Buffers from Allocate lie in memfd memory that every local peer maps: a reduce-scatter reads the peers' buffers
// in place and adds straight into the accumulator. Other buffers are copied through a staging area in pieces.
// Progress words live on cache lines of their own; waiting is one futex with a deadline. A thread watches the
// peers' sockets: when one closes, every wait ends. A new attempt has new memory, so a rank of an old attempt
// that wakes up writes into nothing that matters.
#ifndef VLM_TRAIN_COLLECTIVES_SHARED_MEMORY_COLLECTIVE_H_
#define VLM_TRAIN_COLLECTIVES_SHARED_MEMORY_COLLECTIVE_H_

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status.h"
#include "train/collective.h"
#include "train/collectives/peer_mesh.h"

namespace vlm::train {

struct CollectiveOptions {
  absl::Duration deadline = kCollectiveDeadline;  // of each operation
  // Checks of a progress word before sleeping on it; 0 where ranks are at least as many as cores.
  int spins = 0;
  const Clock* clock = RealClock();  // outlives the collective
};

// `sockets` come from ConnectMesh over Unix sockets. Collective: returns when memory has been exchanged.
// FAILED_PRECONDITION when a peer's memory cannot be mapped (another machine or namespace).
absl::StatusOr<std::unique_ptr<Collective>> NewSharedMemoryCollective(const MeshIdentity& identity,
                                                                      std::vector<UniqueFd> sockets,
                                                                      const CollectiveOptions& options);

}  // namespace vlm::train

#endif  // VLM_TRAIN_COLLECTIVES_SHARED_MEMORY_COLLECTIVE_H_
