// A trainer without training: it steps with its peers, saves, works on shards, and fails in every way asked for.
//
// A gang computes a chain of numbers, value(step) = mix(value(step - 1), step), so that the final artifact shows
// whether every resume began where a commit ended.
#ifndef VLM_TESTS_SIM_FAKE_TRAINER_H_
#define VLM_TESTS_SIM_FAKE_TRAINER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/simulated_file_system.h"
#include "checkpoint/core/checkpoint_core.h"
#include "coordinator/core/messages.h"
#include "tests/sim/event_queue.h"
#include "vlm/v1/trainer.pb.h"
#include "worker/core/worker.h"

namespace vlm::sim {

struct StagePlan {
  uint64_t steps = 8;  // of a gang
  uint64_t save_every = 3;
  absl::Duration step_time = absl::Milliseconds(300);
  absl::Duration shard_time = absl::Milliseconds(500);
};

uint64_t ChainValue(uint64_t steps);  // after so many steps from the beginning

// The collectives of every running gang: who has arrived at which step.
class GangTable {
 public:
  explicit GangTable(EventQueue* queue) : queue_(queue) {}
  // `go` runs when every rank of the attempt has arrived at `step`; `lost` when a peer is gone instead.
  void Arrive(const std::string& attempt, int32_t world, int32_t rank, uint64_t step, std::function<void()> go,
              std::function<void()> lost);
  void Leave(const std::string& attempt, int32_t rank);  // the process is gone; those who wait for it notice

 private:
  struct Waiting {
    std::function<void()> go, lost;
  };
  struct Gang {
    std::set<int32_t> gone;
    std::map<uint64_t, std::map<int32_t, Waiting>> steps;
  };
  EventQueue* const queue_;
  std::map<std::string, Gang> gangs_;
};

// What a trainer can reach: its worker's socket, the proxied services, its peers, the artifacts folder.
class TrainerHost {
 public:
  virtual ~TrainerHost() = default;
  virtual void ToWorker(const worker::RankKey& rank, const v1::AttachRequest& message) = 0;
  // Retried by the worker's proxy until answered.
  virtual std::string node_id() const = 0;
  virtual void CallData(const worker::RankKey& rank, std::function<coordinator::Input(uint64_t)> make,
                        std::function<void(const coordinator::Reply&)> answer) = 0;
  virtual void CallCheckpoint(const worker::RankKey& rank, checkpoint::Request request,
                              std::function<void(const absl::StatusOr<checkpoint::Response>&)> answer) = 0;
  virtual void ShardsTaken(const worker::RankKey& rank, std::vector<v1::HeldShard> shards) = 0;
  virtual void ShardDropped(v1::HeldShard shard) = 0;
  virtual void Exited(const worker::RankKey& rank, int exit_code, int signal, bool oom) = 0;
  virtual StagePlan PlanOf(const v1::AttemptSpec& spec) = 0;
};

class FakeTrainer : public std::enable_shared_from_this<FakeTrainer> {
 public:
  FakeTrainer(worker::RankKey key, int32_t pid, v1::AttemptSpec spec, EventQueue* queue, SimulatedFileSystem* files,
              GangTable* gangs, TrainerHost* host);

  void Begin();  // the process runs
  void FromWorker(const v1::AttachResponse& message);
  void Signal(int signal);
  void Die(int exit_code, int signal, bool oom);  // faults, too
  void Vanish();                                  // nobody reaps it
  void Freeze() { frozen_ = true; }               // no beat, no progress, deaf to TERM
  void Hang() { hung_ = true; }                   // beats, no progress
  bool alive() const { return alive_; }
  const worker::RankKey& key() const { return key_; }
  const v1::AttemptSpec& spec() const { return spec_; }
  int32_t pid() const { return pid_; }

 private:
  void Beat();
  void Soon(absl::Duration delay, const char* label, void (FakeTrainer::*next)());
  bool Stuck() const { return !alive_ || frozen_ || hung_; }
  void Load();
  void StepOnce();
  void Stepped();
  void Save();
  void WriteStep(const std::string& folder, uint64_t step, const std::string& name, const std::string& contents,
                 void (FakeTrainer::*written)());
  void ReportPart();
  void Leased(const coordinator::Reply& reply);
  void AskForShards();
  void WorkOnShard();
  void CommitShard();
  void FinishPool();
  void Fail(const absl::Status& status);

  const worker::RankKey key_;
  const int32_t pid_;
  const v1::AttemptSpec spec_;
  EventQueue* const queue_;
  SimulatedFileSystem* const files_;
  GangTable* const gangs_;
  TrainerHost* const host_;
  StagePlan plan_;
  int32_t world_ = 0;
  bool alive_ = false, started_ = false, frozen_ = false, hung_ = false, stepping_ = false;
  v1::RankPhase phase_ = v1::RANK_PHASE_INIT;
  uint64_t counter_ = 0, step_ = 0, value_ = 0;
  v1::AddPartRequest part_;
  bool part_final_ = false;
  int failed_saves_ = 0;  // in a row
  std::vector<v1::LeaseShardsResponse::Lease> leases_;
};

}  // namespace vlm::sim

#endif  // VLM_TESTS_SIM_FAKE_TRAINER_H_
