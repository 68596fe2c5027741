#include "train/communication_queue.h"

#include <utility>

#include "train/torch_edge.h"

namespace vlm::train {

struct Ticket::State {
  Mutex mutex;
  CondVar changed;
  bool done ABSL_GUARDED_BY(mutex) = false;
  absl::Status status ABSL_GUARDED_BY(mutex);
};

absl::Status Ticket::Wait() const {
  if (state_ == nullptr) return absl::OkStatus();
  MutexLock lock(&state_->mutex);
  while (!state_->done) state_->changed.Wait(&state_->mutex);
  return state_->status;
}

bool Ticket::Done() const {
  if (state_ == nullptr) return true;
  MutexLock lock(&state_->mutex);
  return state_->done;
}

CommunicationQueue::CommunicationQueue(bool overlap, const Clock* clock) : overlap_(overlap), clock_(clock) {
  if (overlap_) thread_ = std::thread([this] { Run(); });
}

CommunicationQueue::~CommunicationQueue() {
  if (!overlap_) return;
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

Ticket CommunicationQueue::Submit(std::function<absl::Status()> call) {
  const absl::Duration start = clock_->Monotonic();
  Ticket ticket;
  ticket.state_ = std::make_shared<Ticket::State>();
  Item item{std::move(call), ticket.state_};
  if (overlap_) {
    MutexLock lock(&mutex_);
    while (items_.size() >= kQueuedCallsMax) changed_.Wait(&mutex_);
    items_.push_back(std::move(item));
    changed_.NotifyAll();
  } else {
    Execute(std::move(item));
  }
  last_ = ticket;
  blocked_ += clock_->Monotonic() - start;
  return ticket;
}

absl::Status CommunicationQueue::Wait(const Ticket& ticket) {
  if (ticket.state_ == nullptr) return absl::OkStatus();
  const absl::Duration start = clock_->Monotonic();
  absl::Status status = ticket.Wait();
  blocked_ += clock_->Monotonic() - start;
  return status;
}

absl::Status CommunicationQueue::Drain() { return Wait(last_); }

void CommunicationQueue::Execute(Item item) {
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    status = failed_;
  }
  if (status.ok()) {
    status = CatchTorch("communication", item.call);
    if (!status.ok()) {
      MutexLock lock(&mutex_);
      failed_ = status;
    }
  }
  item.call = nullptr;  // its tensors are released before anyone hears that it is done
  MutexLock lock(&item.state->mutex);
  item.state->done = true;
  item.state->status = std::move(status);
  item.state->changed.NotifyAll();
}

void CommunicationQueue::Run() {
  while (true) {
    Item item;
    {
      MutexLock lock(&mutex_);
      while (items_.empty() && !stopping_) changed_.Wait(&mutex_);
      if (items_.empty()) return;
      item = std::move(items_.front());
      items_.pop_front();
      changed_.NotifyAll();
    }
    Execute(std::move(item));
  }
}

}  // namespace vlm::train
