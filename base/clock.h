// Time as an injected dependency. Durations are measured on Monotonic(); Wall() is for display only.
#ifndef VLM_BASE_CLOCK_H_
#define VLM_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace vlm {

// Thread-safe; never blocks.
class Clock {
 public:
  virtual ~Clock() = default;
  // Time since an arbitrary fixed origin; CLOCK_BOOTTIME, so it also runs while the machine sleeps.
  virtual absl::Duration Monotonic() const = 0;
  virtual absl::Time Wall() const = 0;
};

// The machine's clock; lives as long as the process.
const Clock* RealClock();

}  // namespace vlm

#endif  // VLM_BASE_CLOCK_H_
