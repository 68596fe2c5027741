// JobService.TailLogs: a rank's log from an offset on, and with `follow` what it writes until its attempt ends.
#ifndef VLM_COORDINATOR_LOG_TAIL_H_
#define VLM_COORDINATOR_LOG_TAIL_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/clock.h"
#include "coordinator/coordinator_metrics.h"
#include "coordinator/decision_loop.h"
#include "coordinator/telemetry_store.h"
#include "rpc/server.h"
#include "vlm/v1/job.pb.h"

namespace vlm::coordinator {

struct LogTailOptions {
  size_t tails_max = 64;
  absl::Duration tick = absl::Milliseconds(500);
  // A log that has not grown for so long after its attempt has ended is complete: the worker ships what it has
  // within this time.
  absl::Duration settled_after = absl::Seconds(2);
};

// Thread-safe; works on the telemetry store's thread.
class LogTail {
 public:
  // All must outlive the tail; the store's thread must be stopped before the tail is destroyed.
  LogTail(LogTailOptions options, TelemetryStore* store, DecisionLoop* loop, const Clock* clock,
          CoordinatorMetrics* metrics);

  void Register(rpc::ServiceRegistry* registry);
  // Begins the ticks. Once.
  void Start();
  // The log has grown. On the thread.
  void OnLog(const LogKey& key);

 private:
  class Receiver;
  struct Tail {
    std::shared_ptr<rpc::Stream> stream;
    LogKey key;  // fence 0: no attempt yet
    uint64_t offset = 0;
    bool follow = false;
    bool attempt_over = false;
    absl::Duration moved;  // when something was sent, or the attempt was first seen to be over
    absl::Duration taken;  // when the stream last took something or had nothing to take
  };

  void Begin(uint64_t id, std::shared_ptr<rpc::Stream> stream, const v1::TailLogsRequest& request);
  void AskStage(uint64_t id, const std::string& job, const std::string& stage);
  void OnStage(uint64_t id, const absl::StatusOr<v1::Job>& job);
  void Pump(uint64_t id);
  void End(uint64_t id, const absl::Status& status);
  void Tick();

  const LogTailOptions options_;
  TelemetryStore* const store_;
  DecisionLoop* const loop_;
  const Clock* const clock_;
  CoordinatorMetrics* const metrics_;
  std::atomic<uint64_t> next_id_ = 1;
  std::map<uint64_t, Tail> tails_;  // on the thread only
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_LOG_TAIL_H_
