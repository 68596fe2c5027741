#include "trainer/worker_ties.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <thread>
#include <utility>

namespace vlm::trainer {
namespace {

// Nothing is ever written to the pipe; what comes all the same is passed over.
void WaitForEnd(int guard_fd) {
  char byte = 0;
  while (true) {
    const ssize_t bytes = read(guard_fd, &byte, 1);
    if (bytes == 0 || (bytes < 0 && errno != EINTR)) return;
  }
}

}  // namespace

absl::Status TieToWorker(const WorkerTies& ties, std::function<void()> gone) {
  // CLOEXEC: nothing this process may start is to read from the worker's pipe.
  if (fcntl(ties.guard_fd, F_SETFD, FD_CLOEXEC) != 0) {
    return absl::InvalidArgumentError("the guard is no open descriptor; vlm-worker passes it: " +
                                      std::to_string(ties.guard_fd));
  }
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return ErrnoStatus(errno, "ask to be killed with the worker");
  if (getppid() != ties.worker_pid) {
    return absl::UnavailableError("the worker that started this trainer is gone; pid " +
                                  std::to_string(ties.worker_pid));
  }
  std::thread([fd = ties.guard_fd, gone = std::move(gone)] {
    WaitForEnd(fd);
    gone();
  }).detach();  // blocked until the worker's end: nothing could join it before
  return absl::OkStatus();
}

}  // namespace vlm::trainer
