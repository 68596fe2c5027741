// Drives the coordinator's core by hand: a store of rows, a checkpoint service that answers when told to, and
// workers that say what a test lets them say.
#ifndef VLM_TESTS_UNIT_COORDINATOR_SERVICE_HARNESS_H_
#define VLM_TESTS_UNIT_COORDINATOR_SERVICE_HARNESS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/core/coordinator.h"

namespace vlm::coordinator {

class ServiceHarness {
 public:
  explicit ServiceHarness(CoordinatorOptions options = Options());

  static CoordinatorOptions Options();
  static spec::Stage Gang(const std::string& name, std::vector<std::string> needs = {}, spec::Ranks ranks = {1, 2});
  static spec::Stage Pool(const std::string& name, uint32_t shards, spec::Ranks ranks = {1, 2});
  // Every class is retried at once and without limit, but user_error and bad_data, which are not.
  static spec::Job Job(std::vector<spec::Stage> stages, const std::string& name = "job");

  void Feed(const Input& input);
  void Advance(absl::Duration by);              // with TimePassed at every NextWake
  void Restart();                               // from the rows that were written
  void Jump(absl::Duration by) { now_ += by; }  // no tick: a stall

  Reply Call(const Input& input, uint64_t call);
  std::string Submit(const spec::Job& job, const std::string& request = "request");
  absl::StatusOr<v1::CancelJobResponse> Cancel(const std::string& job_id);
  absl::StatusOr<v1::RetryJobResponse> Retry(const std::string& job_id, const std::string& request_id = "");

  // From now on; they are answered at once unless a test says otherwise.
  void AnswerRootChecks(bool answer) { answers_root_checks_ = answer; }

  // A worker's stream; answers root checks. `hello` may be changed before.
  v1::Hello Hello(const std::string& node, int slots = 1, uint64_t incarnation = 1) const;
  uint64_t Connect(const v1::Hello& hello);
  void Say(uint64_t session, v1::SessionRequest message);
  void Beat(uint64_t session, const std::vector<v1::RankBeat>& ranks = {});
  void Ready(uint64_t session, const std::string& attempt, int32_t rank);
  void Exit(uint64_t session, const std::string& attempt, int32_t rank, int exit_code, int signal = 0,
            const std::string& message = "");

  // The checkpoint service.
  void Open(const std::string& uid, uint64_t fence, uint64_t step = 0, bool final = false);
  void Publish(const std::string& uid, uint64_t fence, absl::Status status = absl::OkStatus());

  // A gang or pool of one stage brought to RUNNING on the given sessions, whatever ranks they got.
  void RunAttempt(const std::string& job_id, const std::string& stage, const std::vector<uint64_t>& sessions);

  v1::Job View(const std::string& job_id) const { return *core_->GetJob(job_id); }
  v1::Stage StageView(const std::string& job_id, const std::string& stage) const;
  std::string AttemptOf(const std::string& job_id, const std::string& stage) const;
  Coordinator& core() { return *core_; }
  std::map<std::string, absl::Duration> Waited() const { return core_->Waited(now_); }

  // What came out since the last Take*, in order.
  std::vector<Effect> TakeEffects() { return std::exchange(effects_, {}); }
  std::vector<v1::SessionResponse> TakeSent(uint64_t session);
  std::vector<absl::Status> TakeClosed();
  std::vector<std::string> event_kinds() const;
  const std::vector<v1::Event>& events() const { return events_; }
  const std::map<std::string, std::map<std::string, std::string>>& rows() const { return rows_; }

 private:
  void Settle(const Outputs& outputs);
  Now now() const { return {now_, absl::FromUnixSeconds(1'700'000'000) + now_}; }

  const CoordinatorOptions options_;
  std::unique_ptr<Coordinator> core_;
  absl::Duration now_ = absl::Seconds(100);
  std::map<std::string, std::map<std::string, std::string>> rows_;
  std::vector<Effect> effects_;
  std::map<uint64_t, Reply> replies_;
  std::vector<v1::Event> events_;
  bool answers_root_checks_ = true;
  uint64_t next_session_ = 1;
  uint64_t next_call_ = 1;
};

}  // namespace vlm::coordinator

#endif  // VLM_TESTS_UNIT_COORDINATOR_SERVICE_HARNESS_H_
