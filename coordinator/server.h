// The coordinator's process, wired: store, core, decision loop, services, embedded checkpoint service, metrics.
#ifndef VLM_COORDINATOR_SERVER_H_
#define VLM_COORDINATOR_SERVER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "coordinator/core/options.h"

namespace vlm::coordinator {

struct ServerOptions {
  std::string address = "127.0.0.1:0";          // loopback or "unix:/path"; port 0: the last one, or a free one
  std::string metrics_address = "127.0.0.1:0";  // loopback
  std::string state_dir;                        // made when missing, mode 0700
  std::vector<std::string> artifact_roots;      // absolute; made when missing; jobs may write beneath them only.
                                                // The first is the folder of jobs that name none
  std::string port_file;                        // a second copy of coordinator.json; empty: none
  std::string version;
  CoordinatorOptions core;  // default_artifacts and random_bytes are set here
  uint64_t log_bytes_per_job_max = 256u << 20;
  uint64_t log_bytes_max = 4ull << 30;  // of all jobs
  // coordinator/store_space.h; 0: without it
  uint64_t free_space_floor_bytes = 256u << 20;
  uint64_t ballast_bytes = 64u << 20;
  // The store failed: memory is ahead of the disk. Ends the process; when it returns (tests), all stands still.
  std::function<void(const absl::Status&)> on_store_failure;
};

// Files in the state folder:
//   db/, checkpoints/        databases of the coordinator and of the checkpoint service
//   ballast                  space kept for a start on a full disk (coordinator/store_space.h)
//   logs/                    of ranks (coordinator/log_store.h)
//   user.token, worker.token mode 0600; made once
//   coordinator.json         {"address", "metrics_address", "pid", "user_token_file", "worker_token_file",
//                            "version"}; written when serving, left on stop: with port 0 the next start takes the
//                            same ports when they are free, so that workers find it again
// Thread-safe.
class Server {
 public:
  // Serving when it returns. INVALID_ARGUMENT for a bad option; FAILED_PRECONDITION, naming the holder, when
  // another coordinator uses the state folder; ALREADY_EXISTS when a port is in use; DATA_LOSS for a damaged store.
  static absl::StatusOr<std::unique_ptr<Server>> Create(ServerOptions options);
  ~Server();  // Stop(0)
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  const std::string& address() const;
  const std::string& metrics_address() const;

  // Answers calls in progress for `grace`, ends sessions, closes the databases. Trainers go on: the next start
  // finds them through their workers.
  void Stop(absl::Duration grace);

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_SERVER_H_
