// A node under simulation: the real worker core, the shell's duties around it, its trainers and its network.
#ifndef VLM_TESTS_SIM_SIMULATED_WORKER_H_
#define VLM_TESTS_SIM_SIMULATED_WORKER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/event_queue.h"
#include "tests/sim/fake_trainer.h"
#include "tests/sim/simulated_service.h"
#include "vlm/v1/record.pb.h"
#include "worker/core/worker.h"

namespace vlm::sim {

// What all nodes share.
struct World {
  EventQueue* queue = nullptr;
  SimulatedFileSystem* files = nullptr;
  GangTable* gangs = nullptr;
  SimulatedService* service = nullptr;
  std::function<void(const std::string&)> fail;
  std::function<StagePlan(const v1::AttemptSpec&)> plan_of;
  std::function<void(const coordinator::Input&, const coordinator::Reply&)> on_data_answer;
  uint64_t next_session = 1;
  int32_t next_pid = 100;
  bool hostile = false;                // faults happen: calls come late, twice or not at all
  std::set<worker::RankKey> started;   // ever, anywhere
  std::set<std::string> forgotten;     // nodes whose row the coordinator has removed, until they start anew
  int64_t late_calls = 0, strays = 0;  // how often
};

class SimulatedWorker final : public TrainerHost {
 public:
  SimulatedWorker(World* world, int index, int slots);

  void Boot();
  // The process dies. Some trainers die with it, the others go on without a parent, as one that is stuck in the
  // kernel does, and keep calling until the node's next worker sweeps them.
  void Crash();
  // `session_only`: the calls of its trainers, which have a connection of their own, still pass.
  void Partition(bool session_only);
  void Heal();
  void BreakLink();
  bool up() const { return core_ != nullptr; }
  uint64_t session() const { return session_; }
  // The coordinator writes this row: the slot of every process that runs is taken.
  void CheckTaken(const v1::NodeRecord& row) const;
  // From the coordinator.
  void Receive(uint64_t session, const v1::SessionResponse& message);
  void Closed(uint64_t session);  // by the coordinator, or because it died

  std::vector<std::shared_ptr<FakeTrainer>> Trainers() const;

  // TrainerHost
  std::string node_id() const override { return node_id_; }
  void ToWorker(const worker::RankKey& rank, const v1::AttachRequest& message) override;
  void CallData(const worker::RankKey& rank, std::function<coordinator::Input(uint64_t)> make,
                std::function<void(const coordinator::Reply&)> answer) override;
  void CallCheckpoint(const worker::RankKey& rank, checkpoint::Request request,
                      std::function<void(const absl::StatusOr<checkpoint::Response>&)> answer) override;
  void ShardsTaken(const worker::RankKey& rank, std::vector<v1::HeldShard> shards) override;
  void ShardDropped(v1::HeldShard shard) override;
  void Exited(const worker::RankKey& rank, int exit_code, int signal, bool oom) override;
  StagePlan PlanOf(const v1::AttemptSpec& spec) override { return world_->plan_of(spec); }

 private:
  struct Process {
    std::shared_ptr<FakeTrainer> trainer;
    int32_t device = 0;
  };
  void Feed(const worker::Input& input);
  void Carry(const worker::Output& output);
  void Spawn(const worker::SpawnRank& spawn);
  void PlanWake();
  void Connect(absl::Duration delay);
  void Disconnected(const std::string& reason);
  // In this life of the process only.
  void Soon(absl::Duration delay, const char* label, std::function<void()> function);
  absl::Duration Latency() { return world_->queue->Between(absl::Milliseconds(1), absl::Milliseconds(20)); }
  // A message of the session, in order, when the network lets it through.
  void Transmit(absl::Duration* last, const char* label, std::function<void()> deliver);
  // A call of a trainer, sent again until it is answered or the trainer has gone. What was sent may arrive late, when
  // its sender is no more, and twice.
  void RetryUntilAnswered(std::shared_ptr<FakeTrainer> trainer, std::shared_ptr<bool> answered,
                          std::function<void()> send);
  void Answer(std::shared_ptr<bool> answered, std::function<void()> answer);
  bool CallsPass() const { return !partitioned_ || session_only_; }
  std::shared_ptr<FakeTrainer> FindTrainer(const worker::RankKey& rank) const;
  // The rules of a node.
  void CheckSlots(const v1::Assign& assign) const;
  void NoteVerdict(const v1::Welcome& welcome);
  void CheckVerdict() const;

  World* const world_;
  const std::string node_id_;
  const int slots_;
  std::unique_ptr<worker::Worker> core_;
  uint64_t life_ = 0;
  uint64_t incarnation_ = 0;
  uint64_t epoch_seen_ = 0;                                   // stored
  std::map<worker::RankKey, v1::RankResult> stored_results_;  // stored
  std::map<worker::RankKey, Process> processes_;
  std::map<worker::RankKey, std::shared_ptr<FakeTrainer>> strays_;  // outlived the worker's process
  std::vector<std::shared_ptr<FakeTrainer>> condemned_;             // not allowed by the session's Welcome
  uint64_t session_ = 0;
  bool connecting_ = false;
  bool partitioned_ = false;
  bool session_only_ = false;
  bool reset_on_heal_ = false;
  absl::Duration partitioned_at_, planned_wake_, up_until_, down_until_;
  std::vector<std::function<void()>> held_;  // by a partition
};

}  // namespace vlm::sim

#endif  // VLM_TESTS_SIM_SIMULATED_WORKER_H_
