// What ends a trainer when its worker is gone, however the worker ended.
#ifndef VLM_TRAINER_WORKER_TIES_H_
#define VLM_TRAINER_WORKER_TIES_H_

#include <functional>

#include "base/status.h"

namespace vlm::trainer {

struct WorkerTies {
  int worker_pid = 0;  // the process that must be our parent
  int guard_fd = -1;   // a pipe's end for reading; the worker alone holds the other one
};

// Two ties, since each alone has a hole. PR_SET_PDEATHSIG: the kernel kills this process with SIGKILL when the
// *thread* that made it ends (vlm-worker makes trainers on a thread that lives as long as the worker); it is lost
// when the worker ended before the call, which getppid() then shows, and cleared by an exec of another program. The
// guard: `gone` is called once, on a thread of its own, when the pipe reads end-of-file; the kernel closes the
// worker's end with the worker. Both act at once; a connection that is merely broken is not their business.
//
// Call once, before anything that lasts. UNAVAILABLE when the worker has ended already, INVALID_ARGUMENT when
// `guard_fd` is no open descriptor, INTERNAL when the kernel refuses.
absl::Status TieToWorker(const WorkerTies& ties, std::function<void()> gone);

}  // namespace vlm::trainer

#endif  // VLM_TRAINER_WORKER_TIES_H_
