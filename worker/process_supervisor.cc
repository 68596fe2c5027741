#include "worker/process_supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <deque>
#include <fstream>
#include <map>
#include <thread>
#include <utility>

#include "base/mutex.h"

namespace vlm::worker {
namespace {

constexpr size_t kReadBytes = 64 << 10;
// One round of reading from one process, so that a flood does not keep others waiting.
constexpr int kReadsPerRound = 8;
constexpr int kLeftoverWaitMs = 5000;

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

struct Pipe {
  Descriptor read;
  Descriptor write;
};

absl::StatusOr<Pipe> MakePipe() {
  std::array<int, 2> ends;
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoStatus(errno, "make a pipe");
  return Pipe{Descriptor(ends[0]), Descriptor(ends[1])};
}

int PidfdOpen(int pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

// Arguments of posix_spawn, released at the end of the scope.
class SpawnAttributes {
 public:
  SpawnAttributes() {
    posix_spawnattr_init(&attributes_);
    posix_spawn_file_actions_init(&actions_);
  }
  ~SpawnAttributes() {
    posix_spawnattr_destroy(&attributes_);
    posix_spawn_file_actions_destroy(&actions_);
  }
  void Fill(int output, int guard) {
    posix_spawn_file_actions_addopen(&actions_, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions_, output, 1);
    posix_spawn_file_actions_adddup2(&actions_, output, 2);
    posix_spawn_file_actions_adddup2(&actions_, guard, ProcessSupervisor::kGuardDescriptor);
    posix_spawn_file_actions_addclosefrom_np(&actions_, ProcessSupervisor::kGuardDescriptor + 1);
    sigset_t none;
    sigemptyset(&none);
    sigset_t all;
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  const posix_spawnattr_t* attributes() const { return &attributes_; }
  const posix_spawn_file_actions_t* actions() const { return &actions_; }

 private:
  posix_spawnattr_t attributes_;
  posix_spawn_file_actions_t actions_;
};

std::vector<char*> Pointers(std::vector<std::string>* strings) {
  std::vector<char*> pointers;
  for (std::string& text : *strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Narrows the calling thread to some processors for the time of a spawn: the child inherits them.
class ScopedAffinity {
 public:
  explicit ScopedAffinity(const std::vector<int>& cpus) : active_(!cpus.empty()) {
    if (!active_) return;
    sched_getaffinity(0, sizeof(before_), &before_);
    cpu_set_t wanted;
    CPU_ZERO(&wanted);
    for (const int cpu : cpus) CPU_SET(cpu, &wanted);
    if (sched_setaffinity(0, sizeof(wanted), &wanted) != 0) error_ = ErrnoStatus(errno, "set the processors of a rank");
  }
  ~ScopedAffinity() {
    if (active_) sched_setaffinity(0, sizeof(before_), &before_);
  }
  const absl::Status& error() const { return error_; }

 private:
  const bool active_;
  cpu_set_t before_;
  absl::Status error_;
};

struct Process {
  int pid = 0;
  Descriptor pidfd;
  Descriptor output;
  ProcessEvents events;
};

}  // namespace

class ProcessSupervisor::Impl {
 public:
  Impl(Pipe guard, Descriptor epoll, Descriptor wake)
      : guard_(std::move(guard)), epoll_(std::move(epoll)), wake_(std::move(wake)), thread_([this] { Run(); }) {}

  ~Impl() {
    Post([this] { stopping_ = true; });
    thread_.join();
  }

  void Post(std::function<void()> function) {
    {
      MutexLock lock(&mutex_);
      posted_.push_back(std::move(function));
    }
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));  // full means it wakes anyway
  }

  void Start(Launch launch, ProcessEvents events) {
    absl::StatusOr<Process> process = Spawn(std::move(launch));
    if (!process.ok()) {
      events.failed(process.status());
      return;
    }
    process->events = std::move(events);
    const int pid = process->pid;
    Watch(process->pidfd.get(), pid);
    Watch(process->output.get(), pid);
    process->events.started(pid);
    processes_.emplace(pid, *std::move(process));
  }

  void Signal(int pid, int signal) {
    if (!processes_.contains(pid)) return;  // reaped
    kill(-pid, signal);
  }

 private:
  absl::StatusOr<Process> Spawn(Launch launch) {
    VLM_ASSIGN_OR_RETURN(Pipe output, MakePipe());
    fcntl(output.read.get(), F_SETFL, O_NONBLOCK);
    SpawnAttributes spawn;
    spawn.Fill(output.write.get(), guard_.read.get());
    std::vector<std::string> arguments = std::move(launch.arguments);
    arguments.insert(arguments.begin(), launch.program);
    const std::vector<char*> argv = Pointers(&arguments);
    const std::vector<char*> envp = Pointers(&launch.environment);
    const ScopedAffinity affinity(launch.cpus);
    VLM_RETURN_IF_ERROR(affinity.error());
    Process process;
    const int error = posix_spawn(&process.pid, launch.program.c_str(), spawn.actions(), spawn.attributes(),
                                  argv.data(), envp.data());
    if (error != 0) return ErrnoStatus(error, "start " + launch.program);
    process.pidfd = Descriptor(PidfdOpen(process.pid));
    if (process.pidfd.get() < 0) {
      const absl::Status status = ErrnoStatus(errno, "watch the process of " + launch.program);
      kill(-process.pid, SIGKILL);
      waitpid(process.pid, nullptr, 0);
      return status;
    }
    process.output = std::move(output.read);
    return process;
  }

  // Level-triggered; the event names the process, whose two descriptors are both looked at.
  void Watch(int fd, int pid) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = static_cast<uint64_t>(pid);
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }

  void Run() {
    pthread_setname_np(pthread_self(), "supervisor");
    epoll_event wake{};
    wake.events = EPOLLIN;
    wake.data.u64 = 0;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &wake);
    while (!stopping_) {
      std::array<epoll_event, 32> ready;
      const int count = epoll_wait(epoll_.get(), ready.data(), ready.size(), -1);
      for (int i = 0; i < count; ++i) {
        if (ready[i].data.u64 == 0) {
          RunPosted();
        } else {
          Look(static_cast<int>(ready[i].data.u64));
        }
      }
    }
    for (auto& [pid, process] : processes_) {
      kill(-pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
  }

  void RunPosted() {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t bytes = read(wake_.get(), &count, sizeof(count));
    std::deque<std::function<void()>> functions;
    {
      MutexLock lock(&mutex_);
      functions.swap(posted_);
    }
    for (const std::function<void()>& function : functions) function();
  }

  void Look(int pid) {
    const auto it = processes_.find(pid);
    if (it == processes_.end()) return;
    Process& process = it->second;
    siginfo_t info{};
    const bool exited =
        waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
    if (exited) kill(-pid, SIGKILL);  // what is left of its group
    ReadOutput(&process, exited);
    if (!exited) return;
    waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED);
    const ProcessEvents events = std::move(process.events);
    processes_.erase(it);
    ReapStrangers();
    if (info.si_code == CLD_EXITED) {
      events.exited(info.si_status, 0);
    } else {
      events.exited(0, info.si_status);
    }
  }

  // After the exit everything left in the pipe is read; a grandchild that keeps it open is not waited for.
  void ReadOutput(Process* process, bool exited) {
    if (process->output.get() < 0) return;
    std::string buffer(kReadBytes, '\0');
    for (int round = 0; exited || round < kReadsPerRound; ++round) {
      const ssize_t bytes = read(process->output.get(), buffer.data(), buffer.size());
      if (bytes > 0) {
        process->events.output(buffer.substr(0, static_cast<size_t>(bytes)));
        continue;
      }
      if (bytes < 0 && errno == EINTR) continue;
      if (bytes == 0) process->output = Descriptor();  // closed by the process; else it would wake us for ever
      return;
    }
  }

  // Processes whose parents were ranks come to us, the subreaper.
  void ReapStrangers() {
    while (true) {
      siginfo_t info{};
      if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
      if (processes_.contains(info.si_pid)) return;  // one of ours: its own event comes
      waitpid(info.si_pid, nullptr, WNOHANG);
    }
  }

  const Pipe guard_;
  const Descriptor epoll_;
  const Descriptor wake_;
  bool stopping_ = false;             // of the thread
  std::map<int, Process> processes_;  // of the thread, by pid
  Mutex mutex_;
  std::deque<std::function<void()>> posted_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // last: starts when everything above exists
};

ProcessSupervisor::ProcessSupervisor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ProcessSupervisor::~ProcessSupervisor() = default;

absl::StatusOr<std::unique_ptr<ProcessSupervisor>> ProcessSupervisor::Create() {
  VLM_ASSIGN_OR_RETURN(Pipe guard, MakePipe());
  Descriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  if (epoll.get() < 0) return ErrnoStatus(errno, "make an epoll");
  Descriptor wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (wake.get() < 0) return ErrnoStatus(errno, "make an eventfd");
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return ErrnoStatus(errno, "become a subreaper");
  return std::unique_ptr<ProcessSupervisor>(
      new ProcessSupervisor(std::make_unique<Impl>(std::move(guard), std::move(epoll), std::move(wake))));
}

void ProcessSupervisor::Start(Launch launch, ProcessEvents events) {
  impl_->Post([impl = impl_.get(), launch = std::move(launch), events = std::move(events)]() mutable {
    impl->Start(std::move(launch), std::move(events));
  });
}

void ProcessSupervisor::Signal(int pid, int signal) {
  impl_->Post([impl = impl_.get(), pid, signal] { impl->Signal(pid, signal); });
}

absl::StatusOr<ProcessName> NameProcess(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return absl::NotFoundError("no such process: " + std::to_string(pid));
  // The name in parentheses may hold anything; fields 3 and on follow the last ')'.
  const size_t close = text.rfind(')');
  if (close == std::string::npos) return absl::InternalError("/proc stat does not parse: " + text);
  size_t at = close;
  for (int field = 2; field < 22; ++field) {
    at = text.find(' ', at + 1);
    if (at == std::string::npos) return absl::InternalError("/proc stat has too few fields: " + text);
  }
  return ProcessName{.pid = pid, .start_ticks = std::strtoull(text.c_str() + at + 1, nullptr, 10)};
}

absl::StatusOr<bool> KillLeftover(const ProcessName& name) {
  const Descriptor pidfd(PidfdOpen(name.pid));
  if (pidfd.get() < 0) return false;
  const absl::StatusOr<ProcessName> now = NameProcess(name.pid);
  if (!now.ok() || !(*now == name)) return false;  // gone, or another process by now
  kill(-name.pid, SIGKILL);
  syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
  pollfd wait{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  if (poll(&wait, 1, kLeftoverWaitMs) != 1) {
    return absl::DeadlineExceededError("a process of an earlier worker does not die: pid " + std::to_string(name.pid));
  }
  return true;
}

}  // namespace vlm::worker
