// The inside of Worker. Included by this folder's .cc files only.
#ifndef VLM_WORKER_CORE_WORKER_CORE_H_
#define VLM_WORKER_CORE_WORKER_CORE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "worker/core/held_rank.h"
#include "worker/core/report_queue.h"
#include "worker/core/worker.h"

namespace vlm::worker {

class Worker::Core {
 public:
  explicit Core(WorkerOptions options);

  std::vector<Output> Start(absl::Duration now);
  std::vector<Output> Handle(absl::Duration now, const Input& input);
  absl::Duration NextWake() const;

  std::vector<RankView> Ranks() const;
  bool connected() const { return session_ == Session::kLive; }
  uint64_t epoch_seen() const { return epoch_; }
  size_t results_waiting() const;  // reaped ranks included

 private:
  enum class Session {
    kDown,         // asked for, or lost
    kHello,        // Hello is out, Welcome is not here
    kReconciling,  // welcomed; ranks that are not allowed are dying, nothing is reported before they are reaped
    kLive,
  };
  struct WaitingResult {
    v1::RankResult result;
    absl::Duration sent_at = -absl::InfiniteDuration();  // on this connection
  };

  // session.cc
  void On(const SessionOpened&);
  void On(const SessionLost& lost);
  void On(const FromCoordinator& input);
  void OnWelcome(const v1::Welcome& welcome);
  void OnResultAcknowledged(const v1::ResultAcknowledged& acknowledged);
  void OnCheckRoot(const v1::CheckRoot& check);
  void On(const RootRead& read);
  v1::Hello MakeHello();
  void GoLiveWhenReconciled();
  void DropSession(const std::string& reason);
  void SendBeat();
  void SendReports();
  void SendResults();
  void Send(v1::SessionRequest message);

  // ranks.cc
  void OnAssign(const v1::Assign& assign);
  void AssignRank(const v1::Assign& assign, const v1::RankSlot& slot);
  void OnRendezvous(const v1::Rendezvous& rendezvous);
  void OnStop(const v1::Stop& stop);
  void On(const RankSpawned& spawned);
  void On(const RankSpawnFailed& failed);
  void On(const RankReaped& reaped);
  void On(const FromTrainer& input);
  void On(const TrainerDetached& detached);
  void On(const ResultStored& stored);
  void On(const ShardsLeased& leased);
  void On(const ShardReleased& released);
  void On(const DiskMeasured& disk) { disk_free_bytes_ = disk.free_bytes; }
  void On(const TimePassed&) {}
  void On(const ShutdownRequested&);
  void OnHello(HeldRank* rank);
  void OnBeat(HeldRank* rank, const v1::RankBeat& beat);
  void SetPhase(HeldRank* rank, v1::RankPhase phase);
  // TERM now and KILL after `grace`; with a grace of zero KILL at once. A stricter second order counts.
  void End(HeldRank* rank, Ending ending, absl::Duration grace);
  // The rank has no process any more, or never had one.
  void Finished(HeldRank* rank, const RankEnd& end, const std::string& message);
  void SpawnWaiting();
  void CheckRanks();
  void CheckOrphans();
  void CheckSession();
  void CheckShutdown();

  HeldRank* Find(const RankKey& key);
  template <typename T>
  void Out(T output) {
    outputs_.emplace_back(std::move(output));
  }

  const WorkerOptions options_;
  absl::Duration orphan_grace_;
  absl::Duration now_ = absl::ZeroDuration();
  std::vector<Output> outputs_;

  Session session_ = Session::kDown;
  std::string loss_noted_;  // the newest kind of loss noted since the last Welcome
  uint64_t epoch_ = 0;
  uint64_t sequence_ = 0;                           // of the last SessionRequest
  uint64_t handled_ = 0;                            // the last SessionResponse.sequence of this connection
  absl::Duration heard_at_ = absl::ZeroDuration();  // the coordinator, last
  absl::Duration beat_at_ = absl::ZeroDuration();   // our last Beat
  absl::Duration hello_at_ = absl::ZeroDuration();
  ReportQueue reports_;

  std::map<RankKey, HeldRank> ranks_;
  std::map<RankKey, WaitingResult> results_;  // durable, not yet acknowledged
  uint64_t disk_free_bytes_ = 0;
  bool shutting_down_ = false;
  bool finished_ = false;
  absl::Duration shutdown_until_ = absl::InfiniteDuration();  // last moment to deliver results
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_CORE_WORKER_CORE_H_
