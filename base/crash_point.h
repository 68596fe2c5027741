// Named places in the code where a proof ends or stops the process, so that "in the middle of a save" is a place and
// not a matter of luck. Off in every process but those started with VLM_CRASH_POINTS.
//
// A point is set while the processes run: a file named after it in the folder, with one line "ACTION [OCCURRENCE]".
// The process that passes the point for the OCCURRENCE-th time (1 unless said, counted per process while the file is
// there) renames the file to NAME.reached.PID and does what it says. The rename succeeds once, so that a point acts
// once however many processes pass it and however often they start again. Actions:
//   kill    SIGKILL to this process
//   freeze  SIGSTOP to this process; SIGCONT lets it go on from here
//   hang    this thread stays here for ever, the others (heartbeats) go on
// The names and who passes them: tests/integration/service/README.md.
#ifndef VLM_BASE_CRASH_POINT_H_
#define VLM_BASE_CRASH_POINT_H_

#include <atomic>

namespace vlm {

// The variable that names the folder: read by the main.cc of coordinator, worker and trainer, passed on by workers.
inline constexpr char kCrashPointsVariable[] = "VLM_CRASH_POINTS";

// From now on points look into `folder`; nothing happens when it is null or empty. Once, before other threads start.
void ArmCrashPoints(const char* folder);

namespace crash_point_internal {
extern std::atomic<bool> armed;
void Reach(const char* name);
}  // namespace crash_point_internal

// Passes the point `name`: letters, digits, '_' and '.'. Costs one relaxed load while points are off. Thread-safe.
inline void CrashPoint(const char* name) {
  if (crash_point_internal::armed.load(std::memory_order_relaxed)) [[unlikely]]
    crash_point_internal::Reach(name);
}

}  // namespace vlm

#endif  // VLM_BASE_CRASH_POINT_H_
