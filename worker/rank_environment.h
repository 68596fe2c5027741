// What a rank's process finds in its environment.
#ifndef VLM_WORKER_RANK_ENVIRONMENT_H_
#define VLM_WORKER_RANK_ENVIRONMENT_H_

#include <string>
#include <vector>

#include "vlm/v1/worker.pb.h"
#include "worker/core/worker.h"

namespace vlm::worker {

struct RankSurroundings {
  std::vector<std::string> passed_on;  // "NAME=value" of the worker's own variables that ranks may see
  std::string socket;                  // the worker's, for trainers
  std::string token;                   // of the attempt
  int worker_pid = 0;
  int guard_fd = 0;  // reads end-of-file when the worker is gone
  RankKey rank;
  v1::Device device;
};

// "NAME=value" for each variable: what is passed on, then ours. Ranks of one attempt talk over this machine's loopback
// interface only, NCCL's bootstrap included: without a word it listens on the first outside interface it finds, where
// its traffic is neither authenticated nor encrypted.
std::vector<std::string> RankEnvironment(const RankSurroundings& surroundings);

}  // namespace vlm::worker

#endif  // VLM_WORKER_RANK_ENVIRONMENT_H_
