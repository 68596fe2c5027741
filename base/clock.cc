#include "base/clock.h"

#include <ctime>

#include "absl/time/clock.h"

namespace vlm {
namespace {

class BootClock final : public Clock {
 public:
  absl::Duration Monotonic() const override {
    timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return absl::DurationFromTimespec(now);
  }
  absl::Time Wall() const override { return absl::Now(); }
};

}  // namespace

const Clock* RealClock() {
  static const BootClock clock;
  return &clock;
}

}  // namespace vlm
