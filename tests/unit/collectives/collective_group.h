// Ranks of one attempt as threads, connected by a real transport.
#ifndef VLM_TESTS_UNIT_COLLECTIVES_COLLECTIVE_GROUP_H_
#define VLM_TESTS_UNIT_COLLECTIVES_COLLECTIVE_GROUP_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "train/collective.h"
#include "train/collectives/shared_memory_collective.h"
#include "train/collectives/tcp_collective.h"

namespace vlm::train {

enum class Transport { kSingle, kSharedMemory, kTcp };

// Where `world` ranks meet. Each of them connects, in a thread or in a process forked afterwards.
class RankGroup {
 public:
  // Sockets lie in `folder`, which is made; ends the process when that cannot be.
  RankGroup(Transport transport, int world, const std::string& folder);
  // Waits for the other ranks, two minutes at most. Thread-safe. kSingle: a rank that knows no other.
  absl::StatusOr<std::unique_ptr<Collective>> Connect(int rank, const CollectiveOptions& options) const;

 private:
  const Transport transport_;
  const int world_;
  std::vector<std::unique_ptr<PeerListener>> listeners_;  // by rank
  std::vector<PeerAddress> peers_;                        // by rank
};

// Runs `body` on every rank's thread with its collective and returns the statuses by rank. A rank whose set-up
// fails returns that status.
std::vector<absl::Status> RunRanks(Transport transport, int world, const CollectiveOptions& options,
                                   const std::function<absl::Status(Collective*)>& body);

}  // namespace vlm::train

#endif  // VLM_TESTS_UNIT_COLLECTIVES_COLLECTIVE_GROUP_H_
