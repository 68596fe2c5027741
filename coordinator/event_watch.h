// JobService.WatchEvents: every event after a cursor, in order, without gap or repeat, then live ones.
//
// A watcher has one number, the sequence of the last event it was sent, and reads what follows from the store:
// there is no live queue that could overflow, and a restart changes nothing. A client that reads slowly is sent
// events as it takes them. A heartbeat says that there are no more so far; nothing but events comes before it.
#ifndef VLM_COORDINATOR_EVENT_WATCH_H_
#define VLM_COORDINATOR_EVENT_WATCH_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/executor.h"
#include "coordinator/coordinator_metrics.h"
#include "coordinator/decision_loop.h"
#include "rpc/server.h"
#include "store/meta_store.h"
#include "vlm/v1/job.pb.h"

namespace vlm::coordinator {

struct EventWatchOptions {
  std::string store_uuid;  // 16 bytes; a cursor of another store is refused
  size_t watchers_max = 256;
  absl::Duration tick = absl::Seconds(1);  // progress, and another try for clients that read slowly
  absl::Duration heartbeat = absl::Seconds(5);
};

// Thread-safe; works on `thread`.
class EventWatch {
 public:
  // All must outlive the watch; `thread` must be stopped before the watch is destroyed.
  EventWatch(EventWatchOptions options, store::MetaStore* store, DecisionLoop* loop, Executor* thread,
             CoordinatorMetrics* metrics);

  void Register(rpc::ServiceRegistry* registry);
  // Begins the ticks. Once.
  void Start();
  // These events are durable.
  void OnEvents(const std::vector<v1::Event>& events);

 private:
  class Receiver;
  struct Watcher {
    std::shared_ptr<rpc::Stream> stream;
    std::string job;                              // empty: all
    uint64_t last = 0;                            // sequence of the last event sent
    bool caught_up = false;                       // was sent every event of the last look
    bool took = false;                            // an event since the last heartbeat
    int refused = 0;                              // times of a heartbeat in a row at which the stream took nothing
    std::map<std::string, std::string> progress;  // last sent, by stage
  };

  void Begin(uint64_t id, std::shared_ptr<rpc::Stream> stream, const v1::WatchEventsRequest& request);
  absl::Status Check(const v1::WatchEventsRequest& request, uint64_t* last) const;
  void End(uint64_t id, const absl::Status& status);
  void Pump(uint64_t id);
  absl::StatusOr<std::vector<v1::Event>> Next(const Watcher& watcher) const;
  bool Send(Watcher* watcher, v1::WatchEventsResponse response) const;
  bool SendHeartbeat(Watcher* watcher) const;
  void Tick();
  void SendHeartbeats();
  void AskProgress();
  void SendProgress(const v1::Job& job);
  std::string Cursor(uint64_t sequence) const;

  const EventWatchOptions options_;
  store::MetaStore* const store_;
  DecisionLoop* const loop_;
  Executor* const thread_;
  CoordinatorMetrics* const metrics_;
  std::atomic<uint64_t> next_id_ = 1;
  // On the thread only.
  std::map<uint64_t, Watcher> watchers_;
  absl::Duration since_heartbeat_;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_EVENT_WATCH_H_
