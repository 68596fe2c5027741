// The coordinator's process under simulation: the real coordinator core and the real checkpoint core, each over a
// store that forgets its unsynced tail in a crash. Answers and effects leave only after the sync.
#ifndef VLM_TESTS_SIM_SIMULATED_SERVICE_H_
#define VLM_TESTS_SIM_SIMULATED_SERVICE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "base/simulated_file_system.h"
#include "checkpoint/core/checkpoint_core.h"
#include "checkpoint/service/effect_runner.h"
#include "coordinator/core/coordinator.h"
#include "store/simulated_meta_store.h"
#include "tests/sim/event_queue.h"

namespace vlm::sim {

inline constexpr char kArtifactsRoot[] = "/artifacts";

// What the service tells the world, always after the sync.
class ServiceListener {
 public:
  virtual ~ServiceListener() = default;
  virtual void OnSend(uint64_t session, const v1::SessionResponse& message) = 0;
  virtual void OnClose(uint64_t session) = 0;
  virtual void OnEvent(const v1::Event& event) = 0;
  virtual void OnCatalogStarted(const checkpoint::CheckpointCore& core) = 0;
  // What the catalog has decided, before it is on disk.
  virtual void OnCatalogDecided(const checkpoint::CheckpointCore& core,
                                const std::vector<checkpoint::CatalogEvent>& events) = 0;
  virtual void OnCatalogEvent(const checkpoint::CatalogEvent& event) = 0;
  virtual void OnEffectDone(const checkpoint::Effect& effect) = 0;
  virtual void OnAttemptOpened(const std::string& stage_uid, uint64_t fence) = 0;  // an OK answer was given
  virtual void OnWrites(const std::vector<Mutation>& writes) = 0;                  // of the coordinator, when decided
  virtual void Fail(const std::string& violation) = 0;
};

class SimulatedService {
 public:
  SimulatedService(EventQueue* queue, SimulatedFileSystem* files, ServiceListener* listener);

  void Start();
  // The process dies; with `machine`, the disk loses what was not synced as well.
  void Crash(bool machine);
  // The decision thread stands still; what arrives waits.
  void Stall(absl::Duration time);
  bool up() const { return coordinator_ != nullptr; }

  void FromWorker(uint64_t session, v1::SessionRequest message);
  void SessionClosed(uint64_t session);
  // One answer, or none when the process dies before.
  using DataAnswer = std::function<void(const coordinator::Reply&)>;
  void CallCoordinator(std::function<coordinator::Input(uint64_t call)> make, DataAnswer answer);
  using CheckpointAnswer = std::function<void(const absl::StatusOr<checkpoint::Response>&)>;
  void CallCheckpoint(checkpoint::Request request, CheckpointAnswer answer);

  const coordinator::Coordinator* coordinator() const { return coordinator_.get(); }
  const checkpoint::CheckpointCore* checkpoint() const { return checkpoint_.get(); }
  const store::SimulatedMetaStore& store() const { return store_; }
  // What is in memory is what a restart would load, synced or not; empty when it is, else the difference.
  std::string CompareWithStore() const;

 private:
  void Feed(const coordinator::Input& input);
  void Settle(coordinator::Outputs outputs);
  void Release(const coordinator::Outputs& outputs);
  void Perform(const coordinator::Effect& effect);
  void PlanWake();
  void FeedCheckpoint(uint64_t call, const checkpoint::Request& request);
  void SettleCheckpoint(checkpoint::Outputs outputs);
  void ReleaseCheckpoint(const checkpoint::Outputs& outputs);
  coordinator::Now Now() const;
  // Runs in this life of the process only, after a stall if there is one.
  void Soon(absl::Duration delay, const char* label, std::function<void()> function);

  EventQueue* const queue_;
  SimulatedFileSystem* const files_;
  ServiceListener* const listener_;
  checkpoint::EffectRunner runner_;
  store::SimulatedMetaStore store_;
  store::SimulatedMetaStore catalog_;
  std::unique_ptr<coordinator::Coordinator> coordinator_;
  std::unique_ptr<checkpoint::CheckpointCore> checkpoint_;
  uint64_t life_ = 0;
  uint64_t next_call_ = 1;
  std::map<uint64_t, DataAnswer> data_answers_;
  std::map<uint64_t, CheckpointAnswer> checkpoint_answers_;
  absl::Duration synced_at_, catalog_synced_at_, stalled_until_, planned_wake_;
  absl::Duration disk_until_;      // one thread makes and describes folders, in order
  absl::Duration removals_until_;  // another removes them
};

}  // namespace vlm::sim

#endif  // VLM_TESTS_SIM_SIMULATED_SERVICE_H_
