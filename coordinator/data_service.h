// /vlm.v1.DataService/* and /vlm.v1.NodeService/*: thin passages to the core.
#ifndef VLM_COORDINATOR_DATA_SERVICE_H_
#define VLM_COORDINATOR_DATA_SERVICE_H_

#include "coordinator/decision_loop.h"
#include "rpc/server.h"

namespace vlm::coordinator {

// Metadata in which a worker names itself on calls it passes on for its ranks; a lease is then given only to a rank
// of that worker.
inline constexpr char kNodeIdKey[] = "vlm-node-id";

// `loop` must outlive the server that serves the registry.
void RegisterDataService(DecisionLoop* loop, rpc::ServiceRegistry* registry);
void RegisterNodeService(DecisionLoop* loop, rpc::ServiceRegistry* registry);

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_DATA_SERVICE_H_
