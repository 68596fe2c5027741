// The coordinator as a worker sees it, driven by a test, over real gRPC.
#ifndef VLM_TESTS_INTEGRATION_WORKER_FAKE_COORDINATOR_H_
#define VLM_TESTS_INTEGRATION_WORKER_FAKE_COORDINATOR_H_

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "rpc/grpc_server.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/worker.pb.h"

namespace vlm::worker {

// Welcomes every Hello and acknowledges beats and results. Thread-safe; waits end after 30 s.
class FakeCoordinator {
 public:
  explicit FakeCoordinator(std::string token);
  ~FakeCoordinator() { Stop(); }

  void Start(uint64_t epoch);  // again at the same port
  void Stop();
  const std::string& address() const { return address_; }

  // What the next Welcome allows, and whether results are acknowledged.
  void Allow(const std::string& attempt_id, uint64_t fence);
  void Disallow();
  void AcknowledgeResults(bool yes);
  // Each Hello from now on is answered by the end of its session with `status`; OK: by Welcome again.
  void RefuseHellos(absl::Status status);
  // Until Stop, parts are neither taken nor answered.
  void HoldParts();

  void Send(v1::SessionResponse message);  // to the connected worker
  // Assigns one rank per script on slots 0, 1, ...
  void Assign(uint64_t fence, const std::vector<std::string>& scripts_by_rank);

  // Everything that has arrived and for which `predicate` holds; null when it does not come.
  bool WaitFor(const std::function<bool(const v1::SessionRequest&)>& predicate);
  v1::Hello WaitForHello(size_t number);  // 1: the first
  // That worker has been welcomed: it beats.
  bool WaitForBeatAfterHello(size_t number);
  v1::RankResult WaitForResult(int32_t rank);
  bool WaitForLog(const std::string& text);  // in the shipped log of any rank
  bool WaitForPoint(const std::string& series);
  bool WaitForParts(size_t count);
  std::string log();
  size_t parts();
  std::vector<v1::SessionRequest> requests();
  std::vector<std::string> checkpoint_calls();  // names of methods other than AddPart, in order

 private:
  class SessionReceiver;
  class TelemetryReceiver;
  rpc::ServiceRegistry Registry();
  template <typename Request, typename Response>
  void AddCheckpointCall(const std::string& name, rpc::ServiceRegistry* registry);
  void OnSession(const std::shared_ptr<rpc::Stream>& stream, const v1::SessionRequest& message);
  void OnTelemetry(const std::shared_ptr<rpc::Stream>& stream, const v1::ShipTelemetryRequest& request, size_t bytes);
  void AnswerHello(const std::shared_ptr<rpc::Stream>& stream, const v1::Hello& hello)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendLocked(const std::shared_ptr<rpc::Stream>& stream, v1::SessionResponse message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Wait(const std::function<bool()>& predicate);

  const std::string token_;
  std::string address_ = "127.0.0.1:0";
  std::unique_ptr<rpc::GrpcServer> server_;
  Mutex mutex_;
  CondVar changed_;
  uint64_t epoch_ = 1;
  uint64_t sequence_ = 0;
  uint64_t handled_ = 0;
  bool acknowledge_results_ = true;
  absl::Status refusal_;
  bool hold_parts_ = false;
  std::vector<std::function<void(absl::StatusOr<v1::AddPartResponse>)>> held_parts_;
  std::map<std::string, uint64_t> allowed_;
  std::shared_ptr<rpc::Stream> session_;
  std::vector<v1::SessionRequest> requests_;
  std::map<int32_t, std::string> logs_;
  std::vector<v1::MetricPoint> points_;
  std::vector<v1::AddPartRequest> parts_;
  std::vector<std::string> checkpoint_calls_;
};

}  // namespace vlm::worker

#endif  // VLM_TESTS_INTEGRATION_WORKER_FAKE_COORDINATOR_H_
