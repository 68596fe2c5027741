// The coordinator's machinery behind coordinator.h, one .cc per noun.
#ifndef VLM_COORDINATOR_CORE_CORE_H_
#define VLM_COORDINATOR_CORE_CORE_H_

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/core/coordinator.h"
#include "coordinator/core/ledger.h"
#include "coordinator/core/scheduler.h"
#include "coordinator/core/worker_table.h"

namespace vlm::coordinator {

class Coordinator::Core {
 public:
  explicit Core(CoordinatorOptions options);

  // coordinator.cc
  absl::Status AddRow(std::string_view family, std::string_view key, std::string_view value);
  absl::StatusOr<Outputs> Start(Now now);
  Outputs Handle(Now now, const Input& input);
  absl::Duration NextWake() const;

  // views.cc
  absl::StatusOr<v1::Job> GetJob(std::string_view job_id) const;
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request) const;
  v1::ListNodesResponse ListNodes() const;
  absl::StatusOr<v1::Progress> GetProgress(std::string_view job_id, std::string_view stage) const;
  Counts Count() const;
  std::map<std::string, absl::Duration> Waited(absl::Duration now) const;
  uint64_t epoch() const { return ledger_.meta.epoch(); }
  uint64_t last_event() const { return ledger_.meta.events(); }
  std::string NodeOf(uint64_t session) const;
  absl::Status CheckWriter(const std::string& stage_uid, uint64_t fence, const std::string& node_id) const;
  absl::Status CheckInvariants() const;

 private:
  struct RootNonce {         // of an artifact root
    std::string nonce_file;  // empty: not written yet
    std::string nonce;
    absl::Duration asked;  // when the shell was asked to write it
    bool wanted = false;
    std::string problem;
  };

  // coordinator.cc
  absl::Status LinkRows();
  void Resume();
  void ResumeStage(Stage* stage);  // wanted effects of stored states
  void OnTime();
  void NoticeStall();

  // job_machine.cc
  void On(const SubmitJob& input);
  void On(const CancelJob& input);
  void On(const RetryJob& input);
  absl::Status CheckSubmit(const SubmitJob& input) const;
  absl::StatusOr<Job*> FindRetry(const v1::RetryJobRequest& request, const std::string& payload, bool* repeated);
  void Remember(const std::string& request_id, const std::string& job_id, const std::string& payload);
  Job* MakeJob(const SubmitJob& input);
  Stage* MakeStage(std::string uid, const spec::Stage& from, const spec::CanonicalStage& canonical, Job* job);
  static void DropSpecs(Job* job);
  void DeriveJob(Job* job);  // state and reason from intent and stages
  v1::JobState DerivedState(const Job& job) const;

  // stage_machine.cc
  void Fire(Stage* stage, StageEvent event, std::string reason);
  void ResolveBlocked(Job* job);  // parents that are final move their children
  void LookForReuse(Stage* stage);
  void WantCall(Stage* stage);  // names the call that the state wants, unless one is on its way
  bool FailCall(Stage* stage, const absl::Status& status);  // true: it may pass, and will be named again
  void UpdateBusy(Stage* stage);
  const v1::OutputRecord* ReuseCandidate(const Stage& stage) const;
  void On(const ArtifactCommitted& input);
  void On(const StepVerified& input);
  void On(const StepCommitted& input);
  void EndStageAttempt(Stage* stage);
  void FailStage(Stage* stage, v1::FailureClass failure, const std::string& what);
  void TickBackoff(Stage* stage);
  QueueKey KeyOf(const Stage& stage) const;

  // attempt_start.cc
  void OpenAttempt(Stage* stage, const PlacementDecision& placement);
  void On(const AttemptOpened& input);
  void AssignRanks(Stage* stage, Worker* worker, const std::set<int32_t>* only);
  v1::AttemptSpec MakeSpec(const Stage& stage) const;
  void OnReady(Stage* stage);  // an endpoint was posted
  void SendRendezvous(Stage* stage, Worker* only);
  void FillVacancies(Stage* stage);
  void AddPoolRank(Stage* stage, const PlacedRank& placed);
  static int32_t MissingRanks(const Stage& stage);
  static bool HasVacancy(const Stage& stage);

  // attempt_machine.cc
  void Fire(Stage* stage, AttemptEvent event, std::string reason);
  void StopAttempt(Stage* stage, v1::StopCause cause, const std::string& reason);
  void SendStop(Stage* stage, Worker* worker, const std::vector<int32_t>& ranks);
  void SendStops(Stage* stage);
  void BlameRank(Stage* stage, const Failure& failure);
  void OnRankEnded(Stage* stage, int32_t rank, const Failure& failure);  // its record has the result
  void OnPoolRankEnded(Stage* stage, int32_t rank, const Failure& failure);
  void FinishIfReaped(Stage* stage);
  void LoseRank(Stage* stage, v1::RankRecord* rank, bool free_slot, const std::string& message, absl::Duration at);
  void TickAttempt(Stage* stage);
  // Of the current attempt; null when `attempt_id` is of another.
  Stage* FindAttempt(std::string_view attempt_id);
  const Stage* FindAttempt(std::string_view attempt_id) const;
  static v1::RankRecord* FindRank(Stage* stage, int32_t rank);

  // hang_watch.cc
  void NoteBeat(Stage* stage, const v1::RankBeat& beat);
  void WatchForHangs(Stage* stage);
  absl::Duration HangBudget(const Stage& stage, const LiveRank& rank) const;

  // worker_sessions.cc
  void On(const FromWorker& input);
  void On(const SessionClosed& input);
  void On(const NonceWritten& input);
  void OnHello(uint64_t session, const v1::SessionRequest& message);
  void Reconcile(Worker* worker, const v1::Hello& hello, bool fresh);
  void ReconcileRank(Worker* worker, const v1::TakenSlot& slot, const v1::HeldRank* held, bool fresh);
  void SendWelcome(Worker* worker, const v1::Hello& hello);
  void SendWanted(Worker* worker, const v1::Hello& hello);  // of every attempt with ranks there
  void StopStray(Worker* worker, const std::string& attempt_id, int32_t rank);
  void OnBeat(Worker* worker, const v1::Beat& beat);
  void OnRankUpdate(Worker* worker, const v1::RankUpdate& update);
  void OnResult(Worker* worker, const v1::RankResult& result);
  void OnRootChecked(Worker* worker, const v1::RootChecked& checked);
  void HoldShards(const Worker& worker, const google::protobuf::RepeatedPtrField<v1::HeldShard>& shards);
  void LoseWorker(Worker* worker);
  void ForgetWorkers();  // LOST for long
  void AskRoot(const std::string& root);
  void AskWorker(Worker* worker, const std::string& root);
  NodeOffer::Usable RootUsable(const Worker& worker, const std::string& root, std::string* problem) const;

  // placement.cc
  void Schedule();
  std::vector<NodeOffer> Offers(const Job& job) const;
  void AskRootsFor(const Job& job);
  void TickRoots();
  void CountWait(Stage* stage);  // adds its wait so far, for the reason it had

  // pool_calls.cc
  void On(const LeaseShards& input);
  void On(const CommitShard& input);
  void On(const FailShard& input);
  void On(const ListShards& input);
  void On(const TimePassed&) { OnTime(); }
  absl::StatusOr<Stage*> FindPool(const std::string& stage_uid, uint64_t fence);
  absl::Status CheckNode(const Stage& stage, const std::string& node_id) const;
  absl::Status CheckHolder(const Stage& stage, const std::string& node_id, uint32_t shard, uint64_t lease_id) const;
  void StopPoisoned(Stage* stage, const std::vector<uint32_t>& shards);
  void StoreShard(const Stage& stage, uint32_t shard);

  absl::Duration now() const { return ledger_.now.monotonic; }

  const CoordinatorOptions options_;
  Ledger ledger_;
  WorkerTable workers_;
  StageQueue queue_;
  std::map<std::string, RootNonce> roots_;
  std::map<std::string, uint64_t> restarts_;
  std::map<std::string, absl::Duration> waited_;  // by reason; of waits that have ended or changed their reason
  std::string head_;           // "job/stage" that waits for what is running: those behind wait for it
  size_t live_jobs_ = 0;       // not final
  bool root_waiting_ = false;  // a stage waits for a worker to see its artifacts
  absl::Duration root_look_;
  bool workers_changed_ = false;  // parked stages are looked at again
  bool schedule_ = false;         // capacity, the queue or a root check changed
  absl::Duration last_handle_;
  absl::Duration last_tick_;
  absl::flat_hash_map<std::string, std::unique_ptr<Stage>> restoring_;  // stages, until Start links them to jobs
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_CORE_H_
