// /vlm.v1.DataService/* and /vlm.v1.NodeService/*: thin passages to the core.
#ifndef VLM_COORDINATOR_DATA_SERVICE_H_
#define VLM_COORDINATOR_DATA_SERVICE_H_

#include "coordinator/decision_loop.h"
#include "rpc/server.h"

namespace vlm::coordinator {

// A call without rpc::kNodeIdKey, the worker it comes through, is INVALID_ARGUMENT: leases belong to a rank of one
// worker, and the core refuses the calls of others.
// `loop` must outlive the server that serves the registry.
void RegisterDataService(DecisionLoop* loop, rpc::ServiceRegistry* registry);
void RegisterNodeService(DecisionLoop* loop, rpc::ServiceRegistry* registry);

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_DATA_SERVICE_H_
