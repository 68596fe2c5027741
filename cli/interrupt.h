// Ctrl-C as an injected dependency.
#ifndef VLM_CLI_INTERRUPT_H_
#define VLM_CLI_INTERRUPT_H_

#include "absl/time/time.h"
#include "base/mutex.h"

namespace vlm::cli {

// Thread-safe.
class Interrupt {
 public:
  void Raise();
  bool raised() const;
  // Blocks up to `timeout`; true as soon as the interrupt is raised.
  bool WaitFor(absl::Duration timeout) const;

  // While one lives, whoever delivers signals leaves the ending to the code that looks at raised().
  class Listener {
   public:
    explicit Listener(Interrupt* interrupt);
    ~Listener();
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

   private:
    Interrupt* const interrupt_;
  };
  bool listened() const;

 private:
  mutable Mutex mutex_;
  mutable CondVar changed_;
  bool raised_ ABSL_GUARDED_BY(mutex_) = false;
  int listeners_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vlm::cli

#endif  // VLM_CLI_INTERRUPT_H_
