// The services of a coordinator as vlmctl sees them, kept in memory and told by a test what to be.
#ifndef VLM_TESTS_UNIT_CLI_FAKE_COORDINATOR_H_
#define VLM_TESTS_UNIT_CLI_FAKE_COORDINATOR_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "rpc/server.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/job.pb.h"
#include "vlm/v1/node.pb.h"

namespace vlm::cli {

// Thread-safe. Must outlive what serves its registry.
class FakeCoordinator {
 public:
  rpc::ServiceRegistry Registry();

  // What a test arranges.
  void AddJob(v1::Job job);  // newest first in lists
  void SetJobState(const std::string& job_id, v1::JobState state, const std::string& reason = "");
  void SetStage(const std::string& job_id, const v1::Stage& stage);  // by name
  // Appends an event and sends it to who watches.
  void Emit(const std::string& job_id, const std::string& stage, const std::string& kind,
            const std::string& reason = "");
  void SendProgress(const std::string& job_id, const std::string& stage, const v1::Progress& progress);
  void SetLog(const std::string& stage, uint64_t fence, int rank, const std::string& text);
  void AddStep(const v1::Step& step);
  void SetDamages(std::vector<v1::VerifyStepResponse::Damage> damages);
  void AddNode(const v1::Node& node);
  // The next so many submits are stored, and their answers lost.
  void LoseSubmitAnswers(int count);
  void LoseRetryAnswers(int count);
  void RefuseSubmits(const absl::Status& status);
  // Every watch breaks after so many events; 0: none does.
  void BreakWatchesAfter(size_t events);
  // The next so many log streams break after what is there.
  void BreakTails(int count);
  void WaitForBrokenTails();        // all of them
  void RefuseWatches(bool refuse);  // as a coordinator that has too many
  // No heartbeat follows the stored events until SendHeartbeat.
  void HoldHeartbeats();
  void SendHeartbeat();
  // Ends every open watch as if the connection broke.
  void BreakWatches();
  // Of the cursors it gives and takes: another prefix is another store.
  void SetCursorPrefix(const std::string& prefix);

  // What it saw.
  int pages() const;    // of lists; two jobs each
  int submits() const;  // requests, repeated ones too
  size_t jobs_stored() const;
  std::vector<v1::SubmitJobRequest> submitted() const;
  std::vector<std::string> notes() const;
  std::vector<std::string> retries() const;  // request_ids
  std::vector<std::string> cursors() const;  // of watches, in order of opening
  void WaitForWatch(size_t count) const;     // until so many watches have been opened

 private:
  class Watch;
  class Tail;
  template <typename Response>
  using Answer = std::function<void(absl::StatusOr<Response>)>;

  absl::StatusOr<v1::SubmitJobResponse> Submit(const v1::SubmitJobRequest& request);
  absl::StatusOr<v1::ListJobsResponse> List(const v1::ListJobsRequest& request);
  absl::StatusOr<v1::GetJobResponse> Get(const v1::GetJobRequest& request);
  absl::StatusOr<v1::GetLatestResponse> Latest(const v1::GetLatestRequest& request);
  absl::StatusOr<v1::GetStepResponse> GetStep(const v1::GetStepRequest& request);
  void AddJobMethods(rpc::ServiceRegistry* registry);
  void AddOtherMethods(rpc::ServiceRegistry* registry);
  v1::Job* Find(const std::string& job_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OpenWatch(const v1::WatchEventsRequest& request, const std::shared_ptr<rpc::Stream>& stream);
  void OpenTail(const v1::TailLogsRequest& request, const std::shared_ptr<rpc::Stream>& stream);

  struct Watcher {
    std::string job_id;
    std::shared_ptr<rpc::Stream> stream;
  };

  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::vector<v1::Job> jobs_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::pair<std::string, std::string>> requests_ ABSL_GUARDED_BY(mutex_);  // id -> job, payload
  std::vector<v1::SubmitJobRequest> submitted_ ABSL_GUARDED_BY(mutex_);
  int lose_answers_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t break_after_ ABSL_GUARDED_BY(mutex_) = 0;
  int break_tails_ ABSL_GUARDED_BY(mutex_) = 0;
  bool refuse_watches_ ABSL_GUARDED_BY(mutex_) = false;
  bool hold_heartbeats_ ABSL_GUARDED_BY(mutex_) = false;
  int lose_retries_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::string> retries_ ABSL_GUARDED_BY(mutex_);  // their request_ids
  std::string cursor_prefix_ ABSL_GUARDED_BY(mutex_);
  int pages_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> notes_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Event> events_ ABSL_GUARDED_BY(mutex_);
  std::vector<Watcher> watchers_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> cursors_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> logs_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Step> steps_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::VerifyStepResponse::Damage> damages_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Node> nodes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm::cli

#endif  // VLM_TESTS_UNIT_CLI_FAKE_COORDINATOR_H_
