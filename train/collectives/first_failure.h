// The first failure of a collective, which every later call on it returns. Thread-safe.
#ifndef VLM_TRAIN_COLLECTIVES_FIRST_FAILURE_H_
#define VLM_TRAIN_COLLECTIVES_FIRST_FAILURE_H_

#include "base/mutex.h"
#include "base/status.h"

namespace vlm::train {

class FirstFailure {
 public:
  // OK while there is none.
  absl::Status status() const {
    MutexLock lock(&mutex_);
    return status_;
  }
  void Set(const absl::Status& status) {
    MutexLock lock(&mutex_);
    if (status_.ok()) status_ = status;
  }

 private:
  mutable Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_COLLECTIVES_FIRST_FAILURE_H_
