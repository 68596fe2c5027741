// Ranks of one attempt as processes, connected as the trainer program connects them.
#ifndef VLM_TESTS_INTEGRATION_EQUALITY_RANK_PROCESSES_H_
#define VLM_TESTS_INTEGRATION_EQUALITY_RANK_PROCESSES_H_

#include <functional>
#include <string>

#include "tests/unit/collectives/collective_group.h"

namespace vlm::train {

// Forks `world` processes, runs `body` as one rank in each and waits for all. A rank that dies, or whose body ends with
// a failed expectation, fails the calling test. `folder` is made for their sockets. The caller must have no thread
// beside its own, and must not have used LibTorch.
void RunRankProcesses(Transport transport, int world, const std::string& folder,
                      const std::function<void(Collective*)>& body);

}  // namespace vlm::train

#endif  // VLM_TESTS_INTEGRATION_EQUALITY_RANK_PROCESSES_H_
