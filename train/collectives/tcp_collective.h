// Collectives over stream sockets between hosts (or on one, where shared memory cannot be had).
//
// Direct exchange: every rank sends each peer what that peer needs (W - 1 messages of n / W), so contributions
// arrive separately and are added in rank order: the same bits as shared memory, never a star through rank 0.
#ifndef VLM_TRAIN_COLLECTIVES_TCP_COLLECTIVE_H_
#define VLM_TRAIN_COLLECTIVES_TCP_COLLECTIVE_H_

#include <memory>
#include <vector>

#include "base/status.h"
#include "train/collective.h"
#include "train/collectives/peer_mesh.h"
#include "train/collectives/shared_memory_collective.h"

namespace vlm::train {

// `sockets` come from ConnectMesh over either transport.
absl::StatusOr<std::unique_ptr<Collective>> NewTcpCollective(const MeshIdentity& identity,
                                                             std::vector<UniqueFd> sockets,
                                                             const CollectiveOptions& options);

}  // namespace vlm::train

#endif  // VLM_TRAIN_COLLECTIVES_TCP_COLLECTIVE_H_
