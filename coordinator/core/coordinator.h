// The coordinator's decisions, without gRPC, RocksDB or the operating system: Handle(now, input) -> outputs.
//
// The shell (coordinator/) and the simulation (tests/sim) feed what happened and carry out what comes back.
// State lives in rows (vlm/v1/record.proto); what is not in a row is rebuilt from workers' Hello and beats.
// Effects are not queued: every non-terminal state names the effect it wants, again after a start, when a worker
// comes back and when an answer is overdue; receivers are idempotent. The life cycles are the tables of
// coordinator/core/transition_table.h.
#ifndef VLM_COORDINATOR_CORE_COORDINATOR_H_
#define VLM_COORDINATOR_CORE_COORDINATOR_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/messages.h"
#include "coordinator/core/options.h"
#include "coordinator/core/row_keys.h"
#include "vlm/v1/job.pb.h"
#include "vlm/v1/node.pb.h"

namespace vlm::coordinator {

// For gauges; labels are bounded.
struct Counts {
  std::map<std::string, int64_t> jobs;       // by state, "pending"
  std::map<std::string, int64_t> stages;     // by state, of jobs that are not final
  std::map<std::string, int64_t> attempts;   // by state
  std::map<std::string, int64_t> queued;     // by kind of reason: "capacity", "behind", "root", "workers"
  std::map<std::string, int64_t> nodes;      // by state
  std::map<std::string, uint64_t> restarts;  // by failure class, since this start
  int64_t slots = 0;                         // of LIVE workers
  int64_t slots_taken = 0;
};

// Not thread-safe: one thread of control.
class Coordinator {
 public:
  explicit Coordinator(CoordinatorOptions options);
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  // Before Start: every row of every family of RestoredFamilies(), in any order. DATA_LOSS, naming the row, for
  // one that does not parse.
  absl::Status AddRow(std::string_view family, std::string_view key, std::string_view value);
  // Once, after all rows: raises the epoch and names the effects that stored states want. DATA_LOSS when rows
  // contradict each other, FAILED_PRECONDITION for a store of a newer format.
  absl::StatusOr<Outputs> Start(Now now);

  Outputs Handle(Now now, const Input& input);
  // When TimePassed should be fed next; InfiniteDuration when nothing is pending.
  absl::Duration NextWake() const;

  // Views. `job_yaml` stays empty: the shell reads it from kJobYamlFamily. NOT_FOUND for an unknown job.
  absl::StatusOr<v1::Job> GetJob(std::string_view job_id) const;
  // INVALID_ARGUMENT for a page token that this service did not give or a negative page size.
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request) const;
  v1::ListNodesResponse ListNodes() const;
  // Progress of an active stage (its newest beats). NOT_FOUND for an unknown job or stage.
  absl::StatusOr<v1::Progress> GetProgress(std::string_view job_id, std::string_view stage) const;
  Counts Count() const;
  // Time that stages spent QUEUED since this start, those that wait at `now` (monotonic, not before the newest
  // Handle) included; summed over stages, by what they waited for, in the words of Counts::queued.
  std::map<std::string, absl::Duration> Waited(absl::Duration now) const;
  uint64_t epoch() const;
  uint64_t last_event() const;
  // The node of a session that was welcomed and not closed since; empty for another.
  std::string NodeOf(uint64_t session) const;
  // Whether ranks of `node_id` may write steps of the stage under this fence: OK for the newest attempt while the node
  // has or had ranks of it (a part that was kept while we were away may come after its rank's end). NOT_FOUND for an
  // unknown stage, FAILED_PRECONDITION for another fence, PERMISSION_DENIED for another node.
  absl::Status CheckWriter(const std::string& stage_uid, uint64_t fence, const std::string& node_id) const;

  // For tests: OK, or the first broken rule of memory (a slot taken twice, a job that waits without a reason...).
  absl::Status CheckInvariants() const;

 private:
  class Core;
  const std::unique_ptr<Core> core_;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_COORDINATOR_H_
