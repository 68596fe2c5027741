// /vlm.v1.WorkerService/*: the workers' control sessions and their telemetry.
#ifndef VLM_COORDINATOR_WORKER_SERVICE_H_
#define VLM_COORDINATOR_WORKER_SERVICE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "coordinator/coordinator_metrics.h"
#include "coordinator/decision_loop.h"
#include "coordinator/telemetry_store.h"
#include "rpc/server.h"

namespace vlm::coordinator {

inline constexpr size_t kSessionMessageBytesMax = 256u << 10;
inline constexpr size_t kTelemetryMessageBytesMax = 128u << 10;  // 64 KiB of log and its names
inline constexpr size_t kTelemetryUnhandledBytesMax = 4u << 20;  // of one stream; a worker keeps to its credit

// Thread-safe. Must outlive the server that serves its registry.
class WorkerService {
 public:
  // All must outlive the service.
  WorkerService(DecisionLoop* loop, TelemetryStore* telemetry, CoordinatorMetrics* metrics);
  ~WorkerService();

  void Register(rpc::ServiceRegistry* registry);

  // A session that does not read its messages is closed: it begins again with Hello.
  void Perform(const SendToWorker& effect);
  void Perform(const CloseSession& effect);

 private:
  class SessionReceiver;
  class TelemetryReceiver;

  std::shared_ptr<rpc::StreamReceiver> OpenSession(std::shared_ptr<rpc::Stream> stream);
  void OnSessionMessage(uint64_t session, std::string bytes);
  void OnSessionClosed(uint64_t session);
  // Closes the stream and tells the core.
  void Break(uint64_t session, const absl::Status& status);
  std::shared_ptr<rpc::Stream> Take(uint64_t session);  // null when it is gone

  DecisionLoop* const loop_;
  TelemetryStore* const telemetry_;
  CoordinatorMetrics* const metrics_;
  Mutex mutex_;
  uint64_t next_session_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, std::shared_ptr<rpc::Stream>> sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_WORKER_SERVICE_H_
