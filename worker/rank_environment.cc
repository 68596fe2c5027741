#include "worker/rank_environment.h"

#include <algorithm>

namespace vlm::worker {

std::vector<std::string> RankEnvironment(const RankSurroundings& surroundings) {
  std::vector<std::string> environment = surroundings.passed_on;
  const auto add = [&environment](const std::string& name, const std::string& value) {
    environment.push_back(name + "=" + value);
  };
  add("VLM_WORKER_SOCKET", surroundings.socket);
  add("VLM_ATTEMPT_ID", surroundings.rank.attempt_id);
  add("VLM_RANK", std::to_string(surroundings.rank.rank));
  add("VLM_ATTEMPT_TOKEN", surroundings.token);
  add("VLM_WORKER_PID", std::to_string(surroundings.worker_pid));
  add("VLM_WORKER_GUARD_FD", std::to_string(surroundings.guard_fd));
  const std::string threads = std::to_string(std::max(1, surroundings.device.threads()));
  for (const char* name : {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}) add(name, threads);
  if (surroundings.device.kind() == v1::DEVICE_KIND_CUDA) {
    add("CUDA_VISIBLE_DEVICES", surroundings.device.uuid());
    add("NCCL_SOCKET_IFNAME", "lo");
  }
  return environment;
}

}  // namespace vlm::worker
