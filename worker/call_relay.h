// Brings calls of trainers to the coordinator, also while it is away.
#ifndef VLM_WORKER_CALL_RELAY_H_
#define VLM_WORKER_CALL_RELAY_H_

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/executor.h"
#include "base/random.h"
#include "rpc/channel.h"
#include "worker/state_dir.h"
#include "worker/worker_metrics.h"

namespace vlm::worker {

// All calls on `executor`'s thread; answers come on it too.
class CallRelay {
 public:
  // At most this many calls wait at once; a further one is answered RESOURCE_EXHAUSTED.
  static constexpr size_t kWaitingMax = 4096;

  // What it points to must outlive it. `disk` runs the writes of stored calls.
  struct Parts {
    rpc::Channel* channel;
    std::shared_ptr<Executor> executor;
    std::shared_ptr<Executor> disk;
    StateDir* state;
    WorkerMetrics* metrics;
    const Clock* clock;
    RngKey jitter;
    // Told on `executor` of each call that could not be kept on disk, and why. May be empty.
    std::function<void(const absl::Status&)> unkept = nullptr;
  };
  explicit CallRelay(const Parts& parts);
  ~CallRelay();
  CallRelay(const CallRelay&) = delete;
  CallRelay& operator=(const CallRelay&) = delete;

  // Tries until the service answers or `deadline` is over. A refusal of a busy service that names a delay
  // (rpc/retry.h) is no answer: the call is made again after it. A service that is away for longer than `away_max` is
  // UNAVAILABLE: for calls that are better left than waited for.
  void Forward(std::string method, std::string request, absl::Duration deadline, rpc::Channel::Done done,
               absl::Duration away_max = absl::InfiniteDuration());

  // Keeps the call on disk and tries until the service answers, however long that takes and across restarts of
  // this worker. A call that cannot be kept, on a full disk say, is made all the same, but does not outlive this
  // worker, which its rank does not either. `done` gets the answer, or DEADLINE_EXCEEDED when it is not there within
  // `deadline`; the call goes on. Calls with one name are one call.
  void Deliver(StoredCall call, absl::Duration deadline, rpc::Channel::Done done);
  // Goes on with calls of an earlier incarnation.
  void Resume(std::vector<StoredCall> calls);
  size_t waiting() const { return forwarded_ + stored_.size(); }

 private:
  struct Try;
  struct Stored {
    StoredCall call;
    std::vector<rpc::Channel::Done> waiting;
  };
  void Attempt(std::shared_ptr<Try> attempt);
  void Settle(const std::string& name, const absl::StatusOr<std::string>& answer);
  void SendStored(const std::string& name);

  const Parts parts_;
  uint64_t calls_ = 0;
  size_t forwarded_ = 0;
  std::map<std::string, Stored> stored_;  // by name
  std::shared_ptr<CallRelay*> self_;      // what posted functions hold; null once destroyed
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_CALL_RELAY_H_
