// The thread that owns the coordinator's core, and the one that makes its decisions durable.
//
// Events wait in bounded queues; the decision thread applies up to 64 of each to the core and hands their outputs, as
// one batch, to the sync thread, which commits it (one synced write) and only then lets answers, events and effects
// leave. While batch k is synced, batch k+1 is decided. Then calls wait; what workers say and the passing of time do
// not, and their outputs join batch k+1: however slow the store, a heartbeat is heard when it comes, and no lease ends
// that was renewed. A store that fails ends the process: memory is ahead of the disk.
#ifndef VLM_COORDINATOR_DECISION_LOOP_H_
#define VLM_COORDINATOR_DECISION_LOOP_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "coordinator/coordinator_metrics.h"
#include "coordinator/core/coordinator.h"
#include "store/meta_store.h"

namespace vlm::coordinator {

struct DecisionLoopOptions {
  size_t calls_max = 1024;  // of people and ranks that wait; more are RESOURCE_EXHAUSTED with a delay to call again
  // Of workers that wait; more end their session, which begins again with Hello. Also the outputs (rows and effects)
  // that join a batch while another is synced; with more, messages wait for the store, too.
  size_t messages_max = 8192;
  size_t batch_max = 64;  // calls, and messages, that are decided at once
};

// All must outlive the loop. The functions run on the sync thread, after what they tell of is durable.
struct DecisionLoopDeps {
  Coordinator* core = nullptr;  // restored and started; touched by the decision thread only from then on
  store::MetaStore* store = nullptr;
  const Clock* clock = nullptr;
  CoordinatorMetrics* metrics = nullptr;
  std::function<void(const std::vector<v1::Event>&)> on_events;  // in order of sequence; must not block
  std::function<void(const Effect&)> perform;                    // must not block
  std::function<void(const absl::Status&)> on_store_failure;     // ends the process; when it returns, all stands still
};

class DecisionLoop {
 public:
  DecisionLoop(DecisionLoopOptions options, DecisionLoopDeps deps);
  ~DecisionLoop();  // Stop()
  DecisionLoop(const DecisionLoop&) = delete;
  DecisionLoop& operator=(const DecisionLoop&) = delete;

  // Starts the threads; `started` is what Coordinator::Start decided. Once.
  void Start(Outputs started);
  // What waits is dropped unanswered; returns when both threads have ended. Not from one of them.
  void Stop();

  // A call that the core answers: `make` gets its number. `done` runs once, or never after Stop; with
  // RESOURCE_EXHAUSTED (rpc::RetryDelayOf) at once when too many wait, with UNAVAILABLE after Stop.
  template <typename Response>
  void Call(const std::function<Input(uint64_t call)>& make, std::function<void(absl::StatusOr<Response>)> done) {
    Enqueue(make, [done](const Reply& reply) {
      if (!reply.status.ok()) {
        done(reply.status);
      } else {
        done(std::get<Response>(reply.response));
      }
    });
  }

  // A worker's message or the end of its session. False when too many wait.
  bool FromSession(Input input);
  // An answer to an effect, or a hint. Never refused: effects bound their number.
  void Tell(Input input);

  // `look` reads the core on the decision thread, `then` runs on the sync thread once everything `look` saw is
  // durable. The error of a refused call, with neither run.
  absl::Status Read(std::function<void(const Coordinator&)> look, std::function<void()> then);
  // The same, waiting for it. UNAVAILABLE after Stop, DEADLINE_EXCEEDED after `timeout`. Not from a thread of the
  // loop.
  template <typename T>
  absl::StatusOr<T> ReadAndWait(std::function<T(const Coordinator&)> look, absl::Duration timeout) {
    struct Shared {
      Mutex mutex;
      CondVar changed;
      std::optional<T> seen;
      bool done = false;
    };
    auto shared = std::make_shared<Shared>();
    VLM_RETURN_IF_ERROR(Read([shared, look](const Coordinator& core) { shared->seen = look(core); },
                             [shared] {
                               MutexLock lock(&shared->mutex);
                               shared->done = true;
                               shared->changed.NotifyAll();
                             }));
    const absl::Duration end = deps_.clock->Monotonic() + timeout;
    MutexLock lock(&shared->mutex);
    while (!shared->done) {
      const absl::Duration left = end - deps_.clock->Monotonic();
      if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("the decision thread is busy");
      shared->changed.WaitFor(&shared->mutex, left);
    }
    return *std::move(shared->seen);
  }

  size_t waiting() const;

 private:
  struct Item {
    std::optional<Input> input;  // or a look
    std::function<void(const Reply&)> done;
    std::function<void(const Coordinator&)> look;
    std::function<void()> then;
  };
  struct Batch {
    Outputs outputs;
    std::vector<std::pair<std::function<void(const Reply&)>, Reply>> answers;
    std::vector<std::function<void()>> thens;
    size_t size() const { return outputs.writes.size() + outputs.effects.size(); }
    bool empty() const {
      return outputs.writes.empty() && outputs.events.empty() && outputs.effects.empty() && answers.empty() &&
             thens.empty();
    }
  };

  void Enqueue(const std::function<Input(uint64_t call)>& make, std::function<void(const Reply&)> done);
  absl::Status AddCall(Item item);
  void Decide();  // the decision thread
  // Waits; false after Stop. `*all_heard`: no message is left.
  bool Take(std::vector<Item>* items, bool* all_heard);
  void Apply(const Input& input, std::function<void(const Reply&)> done, Batch* batch);
  bool HandOver(Batch batch);  // waits only while too much waits for the sync thread; false after Stop
  void Sync();                 // the sync thread
  void Release(Batch* batch);
  Now CurrentTime() const { return {deps_.clock->Monotonic(), deps_.clock->Wall()}; }

  const DecisionLoopOptions options_;
  const DecisionLoopDeps deps_;
  std::atomic<uint64_t> next_call_ = 1;

  mutable Mutex mutex_;
  CondVar arrived_;                                    // calls, messages or stop; next_ taken
  CondVar handed_;                                     // next_ set or taken, or stop
  std::deque<Item> calls_ ABSL_GUARDED_BY(mutex_);     // taken only while there is no next_
  std::deque<Item> messages_ ABSL_GUARDED_BY(mutex_);  // of workers, answers to effects, hints
  std::optional<Batch> next_ ABSL_GUARDED_BY(mutex_);  // waits for the sync thread
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread decider_;
  std::thread syncer_;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_DECISION_LOOP_H_
