// One seeded run of the whole control plane under virtual time, with faults, and the rules it must keep.
#ifndef VLM_TESTS_SIM_SIMULATION_H_
#define VLM_TESTS_SIM_SIMULATION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "spec/job.h"
#include "tests/sim/catalog_rules.h"
#include "tests/sim/simulated_service.h"
#include "tests/sim/simulated_worker.h"

namespace vlm::sim {

struct SimulationOptions {
  uint64_t seed = 0;
  absl::Duration faults_until = absl::Seconds(60);  // virtual
  absl::Duration all_done_by = absl::Seconds(900);  // virtual; every job is final by then
  bool faults = true;
};

struct SimulationResult {
  uint64_t hash = 0;
  uint64_t events = 0;
  std::string violation;  // empty: every rule was kept
  std::string trail;      // the last events of the log, for people
  absl::Duration ended;   // virtual
  int64_t succeeded = 0, cancelled = 0, reused_stages = 0, attempts = 0, worker_losses = 0, restarts = 0;
  int64_t retries = 0;                 // by the client
  int64_t late_calls = 0, strays = 0;  // calls that came late, trainers that outlived their worker
  int64_t disk_errors = 0, publishing_crashes = 0, aborted_steps = 0;
};

class Simulation final : public ServiceListener {
 public:
  explicit Simulation(SimulationOptions options);
  SimulationResult Run();

  // ServiceListener
  void OnSend(uint64_t session, const v1::SessionResponse& message) override;
  void OnClose(uint64_t session) override;
  void OnEvent(const v1::Event& event) override;
  void OnCatalogStarted(const checkpoint::CheckpointCore& core) override { rules_.Started(core); }
  void OnCatalogDecided(const checkpoint::CheckpointCore& core,
                        const std::vector<checkpoint::CatalogEvent>& events) override;
  void OnCatalogEvent(const checkpoint::CatalogEvent& event) override;
  void OnEffectDone(const checkpoint::Effect& effect) override;
  void OnAttemptOpened(const std::string& stage_uid, uint64_t fence) override;
  void OnWrites(const std::vector<Mutation>& writes) override;
  void Fail(const std::string& violation) override;

 private:
  struct Submitted {
    spec::Job job;
    std::string yaml;
    std::string job_id;        // once acknowledged
    bool retries = false;      // its budgets are small, and the client retries it whenever it has failed
    bool cancel_sent = false;  // perhaps unanswered
    bool cancelled = false;    // as answered
  };

  void PlanJobs();
  void Submit(size_t index);
  void Cancel(size_t index);
  void RetryWhenFailed(size_t index);
  void PlanFaults();
  void OneFault();
  void CrashService();
  void FailDisk();
  absl::Status DiskFault(FileOperation operation);
  void FaultOnTrainer();
  void RestartService(absl::Duration after);
  void HealAll();
  bool AllFinal() const;

  // Rules
  void Watched(const v1::Event& event);
  void CheckAcknowledged();
  void CheckStored();        // memory and store
  void CheckShardsStored();  // what was told to be done
  void CheckShardWrite(const Mutation& write);
  void CheckNodeWrite(const Mutation& write);
  void OnDataAnswer(const coordinator::Input& input, const coordinator::Reply& reply);
  void CheckResults();

  const SimulationOptions options_;
  EventQueue queue_;
  SimulatedFileSystem files_;
  GangTable gangs_;
  SimulatedService service_;
  World world_;
  std::vector<std::unique_ptr<SimulatedWorker>> workers_;
  std::vector<Submitted> jobs_;
  std::map<std::string, StagePlan> plans_;  // by the job's name
  uint64_t last_event_ = 0;
  bool watch_reconnects_ = false;  // the service has started anew, and nothing was told since
  CatalogRules rules_;
  bool aims_at_publishing_ = false;  // the service dies often while an artifact is published
  bool disk_may_fail_ = false;
  bool look_at_disk_ = false;   // once the service runs again
  double disk_error_rate_ = 0;  // of the artifacts' disk, until disk_fails_until_
  absl::Duration disk_fails_until_;
  uint64_t inputs_ = 0, catalog_inputs_ = 0;                            // for rules that look now and then
  std::map<std::pair<std::string, uint32_t>, uint64_t> shard_winners_;  // acknowledged lease by shard
  std::set<uint64_t> lease_ids_;
  SimulationResult result_;
  std::vector<std::string> trail_;
};

}  // namespace vlm::sim

#endif  // VLM_TESTS_SIM_SIMULATION_H_
