// The worker as one object: the core, and everything that carries out what it decides.
#ifndef VLM_WORKER_WORKER_NODE_H_
#define VLM_WORKER_WORKER_NODE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "vlm/v1/worker.pb.h"
#include "worker/worker_metrics.h"

namespace vlm::worker {

struct WorkerNodeOptions {
  std::string coordinator;  // rpc/address.h
  std::string token;        // of role "worker"
  std::string state_dir;
  std::string trainer;              // path of vlm-trainer
  std::vector<v1::Device> devices;  // what is offered
  std::vector<std::string> data_roots;
  std::vector<std::string> artifact_roots;
  // Divided among the devices by their threads (worker/slot_cpus.h). Empty: ranks run wherever this process may.
  // Nothing is pinned unasked: workers of one machine do not know of each other and would all choose the same ones.
  std::vector<int> cpus;
  std::vector<std::string> environment;  // "NAME=value" passed to trainers beside our own variables
  std::string gpu_lock_folder = "/run/lock";
  std::string memory_events;  // worker/device_probe.h: where ranks that were killed for memory are counted; empty: own
  std::string build;          // version, for display and comparison
  std::string hostname;
  absl::Duration frozen_after = absl::Seconds(10);
  std::function<void(const std::string&)> note;  // one line for the log; from several threads
};

// Thread-safe.
class WorkerNode {
 public:
  // Opens the state folder, kills what an earlier incarnation left running, serves the trainers' socket and
  // begins to look for the coordinator (which need not be there). Errors: of StateDir::Open, DeviceLocks::Take,
  // rpc::GrpcServer::Create and rpc::ParseAddress; NOT_FOUND when the trainer program is missing.
  static absl::StatusOr<std::unique_ptr<WorkerNode>> Create(WorkerNodeOptions options, WorkerMetrics* metrics);
  ~WorkerNode();  // kills what still runs
  WorkerNode(const WorkerNode&) = delete;
  WorkerNode& operator=(const WorkerNode&) = delete;

  // Stops ranks (TERM, then KILL after the grace), delivers what can be delivered, then WaitUntilFinished returns.
  void RequestShutdown();
  void WaitUntilFinished();
  // False while the grace of RequestShutdown runs; for a loop that also looks for signals.
  bool WaitUntilFinishedFor(absl::Duration timeout);

  const std::string& node_id() const;

 private:
  class Impl;
  explicit WorkerNode(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_WORKER_NODE_H_
