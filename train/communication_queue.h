// Collective calls in one strict order, inline or on a thread of their own.
#ifndef VLM_TRAIN_COMMUNICATION_QUEUE_H_
#define VLM_TRAIN_COMMUNICATION_QUEUE_H_

#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"

namespace vlm::train {

// The completion of one submitted call. Copyable; a default one is complete and OK.
class Ticket {
 public:
  Ticket() = default;
  // Blocks until the call has run, then returns its status. Any number of times, from any thread.
  absl::Status Wait() const;
  bool Done() const;

 private:
  friend class CommunicationQueue;
  struct State;
  std::shared_ptr<State> state_;
};

// Submitted calls run one at a time in order of submission, so every rank that submits in the same order calls
// its collective in the same order, overlap on or off. Submit from one thread. After a call has failed, later
// ones are not run and their tickets carry the same error: a collective is unusable after an error. What a call throws
// is its error, as StatusOfException (train/torch_edge.h).
class CommunicationQueue {
 public:
  // `overlap` true: a second thread; false: Submit runs the call before it returns. `clock` outlives *this.
  CommunicationQueue(bool overlap, const Clock* clock);
  ~CommunicationQueue();  // runs what was submitted, then joins
  CommunicationQueue(const CommunicationQueue&) = delete;
  CommunicationQueue& operator=(const CommunicationQueue&) = delete;

  // Waits while kQueuedCallsMax calls are queued.
  Ticket Submit(std::function<absl::Status()> call);
  // Ticket::Wait, with the time counted.
  absl::Status Wait(const Ticket& ticket);
  // Waits for everything submitted so far; the first error.
  absl::Status Drain();
  // Time the submitting thread has spent in Submit and Wait so far.
  absl::Duration blocked() const { return blocked_; }
  bool overlap() const { return overlap_; }

 private:
  // More queued calls than a step has buckets would only hide that communication cannot keep up.
  static constexpr size_t kQueuedCallsMax = 4096;
  struct Item {
    std::function<absl::Status()> call;
    std::shared_ptr<Ticket::State> state;
  };
  void Run();
  void Execute(Item item);

  const bool overlap_;
  const Clock* const clock_;
  absl::Duration blocked_;
  Ticket last_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Item> items_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_COMMUNICATION_QUEUE_H_
