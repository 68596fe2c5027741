#include "cli/interrupt.h"

namespace vlm::cli {

void Interrupt::Raise() {
  MutexLock lock(&mutex_);
  raised_ = true;
  changed_.NotifyAll();
}

bool Interrupt::raised() const {
  MutexLock lock(&mutex_);
  return raised_;
}

bool Interrupt::WaitFor(absl::Duration timeout) const {
  MutexLock lock(&mutex_);
  while (!raised_) {
    if (!changed_.WaitFor(&mutex_, timeout)) break;
  }
  return raised_;
}

bool Interrupt::listened() const {
  MutexLock lock(&mutex_);
  return listeners_ > 0;
}

Interrupt::Listener::Listener(Interrupt* interrupt) : interrupt_(interrupt) {
  MutexLock lock(&interrupt_->mutex_);
  ++interrupt_->listeners_;
}

Interrupt::Listener::~Listener() {
  MutexLock lock(&interrupt_->mutex_);
  --interrupt_->listeners_;
}

}  // namespace vlm::cli
