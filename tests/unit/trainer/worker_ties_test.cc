// Real processes: the test makes a worker, the worker makes a trainer that ties itself to it.
#include "trainer/worker_ties.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <optional>

namespace vlm::trainer {
namespace {

constexpr int kEndedByGuard = 70;
constexpr int kTooLate = 71;
constexpr int kRefused = 72;
// The ties act at once; this much is for a busy machine.
constexpr int kGoneWithinMs = 20'000;

struct Pipe {
  Pipe() { EXPECT_EQ(pipe2(ends.data(), O_CLOEXEC), 0); }
  ~Pipe() {
    CloseRead();
    CloseWrite();
  }
  int read_end() const { return ends[0]; }
  int write_end() const { return ends[1]; }
  void CloseRead() { Close(&ends[0]); }
  void CloseWrite() { Close(&ends[1]); }
  static void Close(int* fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
  }
  std::array<int, 2> ends = {-1, -1};
};

template <typename T>
void Tell(const Pipe& pipe, T value) {
  if (write(pipe.write_end(), &value, sizeof(value)) != sizeof(value)) _exit(kRefused);
}

template <typename T>
T Hear(const Pipe& pipe) {
  T value{};
  EXPECT_EQ(read(pipe.read_end(), &value, sizeof(value)), static_cast<ssize_t>(sizeof(value)));
  return value;
}

[[noreturn]] void Pause() {
  while (true) pause();
}

pid_t Fork(const std::function<void()>& body) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  body();
  _exit(0);
}

// As vlm-trainer: the exit code tells which tie acted.
void BeTrainer(const WorkerTies& ties, const Pipe& tied) {
  const absl::Status status = TieToWorker(ties, [] { _exit(kEndedByGuard); });
  if (!status.ok()) _exit(absl::IsUnavailable(status) ? kTooLate : kRefused);
  Tell(tied, getpid());
  Pause();
}

// The wait status; nothing when it is still running after kGoneWithinMs (then it is killed).
std::optional<int> WaitForEnd(pid_t pid) {
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  pollfd wait = {.fd = pidfd, .events = POLLIN, .revents = 0};
  const bool ended = poll(&wait, 1, kGoneWithinMs) == 1;
  close(pidfd);
  if (!ended) kill(pid, SIGKILL);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return ended ? std::optional<int>(status) : std::nullopt;
}

class WorkerTiesTest : public testing::Test {
 protected:
  // Trainers whose worker is gone become children of the test, which can then wait for them.
  void SetUp() override { ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); }

  Pipe tied_;   // the trainer tells its pid once it is tied
  Pipe guard_;  // the worker's, or held by the test to leave the other tie alone
};

TEST_F(WorkerTiesTest, TheKernelKillsATrainerWhoseWorkerIsKilled) {
  // The test holds the guard open, so that only PR_SET_PDEATHSIG can act.
  const pid_t worker = Fork([this] {
    const pid_t self = getpid();
    Fork([this, self] { BeTrainer({self, guard_.read_end()}, tied_); });
    Pause();
  });
  const pid_t trainer = Hear<pid_t>(tied_);
  ASSERT_EQ(kill(worker, SIGKILL), 0);
  ASSERT_TRUE(WaitForEnd(worker).has_value());
  const std::optional<int> status = WaitForEnd(trainer);
  ASSERT_TRUE(status.has_value()) << "the trainer outlives its worker";
  EXPECT_TRUE(WIFSIGNALED(*status));
  EXPECT_EQ(WTERMSIG(*status), SIGKILL);
}

TEST_F(WorkerTiesTest, TheGuardEndsATrainerThatTheKernelDoesNot) {
  // The parent lives on: only the end of the pipe says that the worker is gone.
  const pid_t parent = getpid();
  const pid_t trainer = Fork([this, parent] {
    guard_.CloseWrite();
    BeTrainer({parent, guard_.read_end()}, tied_);
  });
  EXPECT_EQ(Hear<pid_t>(tied_), trainer);
  int status = 0;
  EXPECT_EQ(waitpid(trainer, &status, WNOHANG), 0) << "an open guard ends nothing";
  guard_.CloseWrite();
  const std::optional<int> end = WaitForEnd(trainer);
  ASSERT_TRUE(end.has_value()) << "the trainer outlives the guard";
  EXPECT_TRUE(WIFEXITED(*end));
  EXPECT_EQ(WEXITSTATUS(*end), kEndedByGuard);
}

TEST_F(WorkerTiesTest, ATrainerThatStartsAfterItsWorkersEndDoesNotRun) {
  Pipe go;
  const pid_t worker = Fork([this, &go] {
    const pid_t self = getpid();
    Tell(tied_, Fork([this, &go, self] {
           char byte = 0;
           if (read(go.read_end(), &byte, 1) != 1) _exit(kRefused);
           BeTrainer({self, guard_.read_end()}, tied_);
         }));
    Pause();
  });
  const pid_t trainer = Hear<pid_t>(tied_);
  ASSERT_EQ(kill(worker, SIGKILL), 0);
  ASSERT_TRUE(WaitForEnd(worker).has_value());
  Tell(go, 'g');
  const std::optional<int> status = WaitForEnd(trainer);
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(WIFEXITED(*status));
  EXPECT_EQ(WEXITSTATUS(*status), kTooLate);
}

TEST_F(WorkerTiesTest, ADescriptorThatIsNotOpenIsRefused) {
  const int closed = guard_.read_end();
  guard_.CloseRead();
  const absl::Status status = TieToWorker({getppid(), closed}, [] {});
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
}

}  // namespace
}  // namespace vlm::trainer
