// What the coordinator knows: rows in memory, what stands beside them, and the outputs of the Handle in progress.
//
// A row is changed in place and touched; TakeOutputs writes every touched row once. Whatever is not in a row is
// lost with the process and rebuilt from workers, the checkpoint service and timers.
#ifndef VLM_COORDINATOR_CORE_LEDGER_H_
#define VLM_COORDINATOR_CORE_LEDGER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "coordinator/core/messages.h"
#include "coordinator/core/root_cause.h"
#include "coordinator/core/row_keys.h"
#include "coordinator/core/shard_table.h"
#include "coordinator/core/transition_table.h"
#include "vlm/v1/record.pb.h"

namespace vlm::coordinator {

// A rank as its worker's messages tell it.
struct LiveRank {
  RankState state = RankState::kAssigned;
  v1::RankPhase phase = v1::RANK_PHASE_ASSIGNED;
  std::optional<v1::Endpoint> endpoint;
  v1::RankBeat beat;
  absl::Duration beat_at;   // newest beat
  absl::Duration moved_at;  // newest change of (phase, counter)
  absl::Duration step_at;   // newest change of beat.step
  std::deque<absl::Duration> step_times;
  std::optional<v1::FailureClass> condemned;  // why we stop this rank alone
  std::string condemned_message;
};

struct Attempt {
  v1::AttemptRecord record;
  std::map<int32_t, LiveRank> live;
  absl::Duration since;  // of the state
  absl::Duration stop_sent;
  RootCause cause;
  absl::Duration fill_after;  // of a pool: vacant ranks are replaced from then on
  bool rendezvous_sent = false;
};

// A call to the checkpoint service that the stage's state wants.
struct WantedCall {
  bool wanted = false;
  absl::Duration next;  // when it is named again
  int32_t failures = 0;
  std::string problem;  // of the last answer
};

struct Job;
struct Stage {
  Job* job = nullptr;
  int32_t index = 0;  // in the job
  v1::StageRecord record;
  std::string spec_json;  // canonical; empty once the job is final and good
  std::optional<Attempt> attempt;
  ShardTable shards;  // of a pool
  WantedCall call;
  bool reuse_refused = false;  // looked at since this start, and it was not usable
  absl::Duration backoff_until;
  std::string wait_kind;       // of a QUEUED stage; empty: behind another
  absl::Duration waits_since;  // of wait_kind
};

struct Job {
  v1::JobRecord record;
  std::vector<std::unique_ptr<Stage>> stages;
  Stage* Find(std::string_view name);
};

class Ledger {
 public:
  v1::MetaRecord meta;
  std::map<std::string, std::unique_ptr<Job>> jobs;  // by job_id
  std::map<uint64_t, Job*> jobs_by_sequence;
  absl::flat_hash_map<std::string, Stage*> stages;  // by stage_uid; not iterated, its order is another each time
  std::map<std::string, v1::RequestRecord> requests;
  std::map<std::string, v1::OutputRecord> outputs_by_key;
  std::set<std::string> busy;  // stages with a call, an attempt or a backoff

  Now now;  // of the Handle in progress

  void TouchMeta() { meta_touched_ = true; }
  void Touch(const Job& job) { jobs_touched_.insert(job.record.job_id()); }
  void Touch(const Stage& stage) { stages_touched_.insert(stage.record.stage_uid()); }
  void TouchAttempt(const Stage& stage) { attempts_touched_.insert(stage.record.stage_uid()); }
  void Put(std::string_view family, std::string key, std::string value);
  void Delete(std::string_view family, std::string key);

  // `kind` as "stage.active"; `stage` may be null (the job itself), both null: the service.
  void Event(const Job* job, const Stage* stage, std::string kind, std::string reason);
  void Effect(vlm::coordinator::Effect effect) { outputs_.effects.push_back(std::move(effect)); }
  void Answer(vlm::coordinator::Reply reply) { outputs_.replies.push_back(std::move(reply)); }

  uint64_t NewLeaseId();
  // After all rows are loaded: ids of an earlier process are not used again.
  void SkipLeaseIds() { next_lease_id_ = first_lease_id_ = meta.lease_ids() + 1; }
  // Given by an earlier process of ours: only its holder can tell who that is.
  bool IsEarlierLease(uint64_t lease_id) const { return lease_id < first_lease_id_; }

  Outputs TakeOutputs();

 private:
  Outputs outputs_;
  uint64_t next_lease_id_ = 1;
  uint64_t first_lease_id_ = 1;  // of this process
  bool meta_touched_ = false;
  std::set<std::string> jobs_touched_;
  std::set<std::string> stages_touched_;
  std::set<std::string> attempts_touched_;
};

// The display time of a row; never before `floor`.
google::protobuf::Timestamp Timestamp(absl::Time time);

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_LEDGER_H_
