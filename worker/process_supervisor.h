// Starts, watches and reaps the processes of ranks.
#ifndef VLM_WORKER_PROCESS_SUPERVISOR_H_
#define VLM_WORKER_PROCESS_SUPERVISOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace vlm::worker {

struct Launch {
  std::string program;                   // absolute path
  std::vector<std::string> arguments;    // without argv[0]
  std::vector<std::string> environment;  // "NAME=value", the whole of it
  std::vector<int> cpus;                 // the processors it may run on; empty: those of this process
};

// Calls for one process come in order, on the supervisor's thread: do not block.
struct ProcessEvents {
  std::function<void(int pid)> started;
  std::function<void(absl::Status)> failed;               // not started; nothing else follows
  std::function<void(std::string bytes)> output;          // stdout and stderr
  std::function<void(int exit_code, int signal)> exited;  // last; exit_code counts when signal is 0
};

// Processes are made by posix_spawn (a fork in a process with gRPC threads may deadlock) on one thread that lives
// as long as this object: PR_SET_PDEATHSIG, which a trainer sets, follows the thread that made it. Each process
// leads a group of its own, has an empty signal mask and default signals, /dev/null as stdin, and no descriptor
// but 0 to 2 and kGuardDescriptor, a pipe whose other end closes with this process. The exit is noticed by pidfd.
// This process becomes a subreaper, so that what a rank leaves behind is killed and reaped too. Thread-safe.
class ProcessSupervisor {
 public:
  static constexpr int kGuardDescriptor = 3;

  // INTERNAL when the system refuses a pipe or an epoll.
  static absl::StatusOr<std::unique_ptr<ProcessSupervisor>> Create();
  ~ProcessSupervisor();  // kills and reaps what still runs, without events
  ProcessSupervisor(const ProcessSupervisor&) = delete;
  ProcessSupervisor& operator=(const ProcessSupervisor&) = delete;

  void Start(Launch launch, ProcessEvents events);
  // To the process's whole group. Ignored once it has been reaped, so that a reused pid is never hit.
  void Signal(int pid, int signal);

 private:
  class Impl;
  explicit ProcessSupervisor(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A process as named on disk: a pid alone may be reused.
struct ProcessName {
  int pid = 0;
  uint64_t start_ticks = 0;  // field 22 of /proc/<pid>/stat
  friend bool operator==(const ProcessName&, const ProcessName&) = default;
};

// NOT_FOUND when there is no such process.
absl::StatusOr<ProcessName> NameProcess(int pid);

// Kills the process and its group if it is still that one, and waits up to 5 s for it to be gone. True when it was
// there. DEADLINE_EXCEEDED when it does not die.
absl::StatusOr<bool> KillLeftover(const ProcessName& name);

}  // namespace vlm::worker

#endif  // VLM_WORKER_PROCESS_SUPERVISOR_H_
