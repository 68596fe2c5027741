// What a worker remembers across its own restarts. Layout in worker/FORMAT.md.
#ifndef VLM_WORKER_STATE_DIR_H_
#define VLM_WORKER_STATE_DIR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "vlm/v1/worker.pb.h"
#include "worker/core/worker.h"
#include "worker/process_supervisor.h"

namespace vlm::worker {

struct StoredCall {
  std::string name;     // of the row; equal calls have equal names
  std::string method;   // "/vlm.v1.CheckpointService/AddPart"
  std::string request;  // serialized
};

// One process at a time (flock). Everything written is durable on return. Thread-safe where the system's files
// are: no two threads may write the same row.
class StateDir {
 public:
  // Makes the folder (mode 0700) and its identity when new, locks it and raises the incarnation.
  // ALREADY_EXISTS, naming the holder's pid, when another worker runs on it. DATA_LOSS when its file is damaged.
  static absl::StatusOr<std::unique_ptr<StateDir>> Open(const std::string& path, const std::string& hostname);
  ~StateDir();
  StateDir(const StateDir&) = delete;
  StateDir& operator=(const StateDir&) = delete;

  const std::string& node_id() const { return node_id_; }
  const std::string& state_uuid() const { return state_uuid_; }
  uint64_t incarnation() const { return incarnation_; }
  uint64_t epoch() const { return epoch_; }
  std::string socket_path() const { return path_ + "/trainers.sock"; }
  std::string run_root() const { return path_ + "/run"; }
  std::string log_root() const { return path_ + "/logs"; }

  absl::Status StoreEpoch(uint64_t epoch);

  // Results that the coordinator has not accepted yet. A damaged row is an error: the rank's end would be lost.
  absl::StatusOr<std::vector<v1::RankResult>> LoadResults() const;
  absl::Status StoreResult(const v1::RankResult& result);
  absl::Status RemoveResult(const RankKey& key);

  // Processes of ranks, for the sweep of the next incarnation.
  absl::StatusOr<std::vector<ProcessName>> LoadProcesses();  // of this boot; rows of an earlier one are removed
  absl::Status StoreProcess(const ProcessName& name);
  absl::Status RemoveProcess(int pid);

  // Calls that must arrive though the service is away.
  absl::StatusOr<std::vector<StoredCall>> LoadCalls() const;
  absl::Status StoreCall(const StoredCall& call);
  absl::Status RemoveCall(const std::string& name);

 private:
  explicit StateDir(std::string path);
  absl::Status Lock();
  absl::Status LoadIdentity(const std::string& hostname);
  absl::Status SaveIdentity() const;

  const std::string path_;
  int lock_ = -1;
  std::string node_id_;
  std::string state_uuid_;
  uint64_t incarnation_ = 0;
  uint64_t epoch_ = 0;
};

// Of this run of the machine, from /proc/sys/kernel/random/boot_id; empty when the system has none.
std::string ReadBootId();

}  // namespace vlm::worker

#endif  // VLM_WORKER_STATE_DIR_H_
