// One actor's thread of control: posted functions run one at a time, in order of their due time.
#ifndef VLM_BASE_EXECUTOR_H_
#define VLM_BASE_EXECUTOR_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"

namespace vlm {

// Post and PostAfter are thread-safe and do not block. A posted function may post more.
// The destructor of an implementation drops what has not run yet.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Post(std::function<void()> function) = 0;
  // Runs not before `delay` has passed on the executor's clock; equal due times run in posting order.
  virtual void PostAfter(absl::Duration delay, std::function<void()> function) = 0;
};

// An executor with one thread of its own, named `name` (at most 15 characters). Destruction joins the thread.
std::unique_ptr<Executor> NewThreadExecutor(std::string name);

}  // namespace vlm

#endif  // VLM_BASE_EXECUTOR_H_
