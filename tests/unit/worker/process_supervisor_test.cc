#include "worker/process_supervisor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace vlm::worker {
namespace {

// What became of one process; waits end after 20 s.
class Watched {
 public:
  ProcessEvents Events() {
    return {.started = [this](int pid) { Change([&] { pid_ = pid; }); },
            .failed = [this](absl::Status status) { Change([&] { failed_ = std::move(status); }); },
            .output = [this](std::string bytes) { Change([&] { output_ += bytes; }); },
            .exited =
                [this](int exit_code, int signal) {
                  Change([&] {
                    exit_code_ = exit_code;
                    signal_ = signal;
                  });
                }};
  }
  bool WaitForExit() {
    return Wait([this] { return exit_code_.has_value(); });
  }
  bool WaitForOutput(const std::string& text) {
    return Wait([this, &text] { return output_.find(text) != std::string::npos; });
  }
  bool WaitForFailure() {
    return Wait([this] { return !failed_.ok(); });
  }
  int exit_code() {
    return Get([this] { return exit_code_.value_or(-1); });
  }
  int signal() {
    return Get([this] { return signal_; });
  }
  int pid() {
    return Get([this] { return pid_; });
  }
  std::string output() {
    return Get([this] { return output_; });
  }
  absl::Status failed() {
    return Get([this] { return failed_; });
  }

 private:
  template <typename F>
  void Change(F change) {
    MutexLock lock(&mutex_);
    change();
    changed_.NotifyAll();
  }
  template <typename F>
  bool Wait(F predicate) {
    MutexLock lock(&mutex_);
    while (!predicate()) {
      if (!changed_.WaitFor(&mutex_, absl::Seconds(20))) return false;
    }
    return true;
  }
  template <typename F>
  std::invoke_result_t<F> Get(F get) {
    MutexLock lock(&mutex_);
    return get();
  }
  Mutex mutex_;
  CondVar changed_;
  int pid_ = 0;
  std::string output_;
  std::optional<int> exit_code_;
  int signal_ = 0;
  absl::Status failed_;
};

Launch Shell(const std::string& script) {
  return {.program = "/bin/sh", .arguments = {"-c", script}, .environment = {"PATH=/usr/bin:/bin"}, .cpus = {}};
}

class ProcessSupervisorTest : public testing::Test {
 protected:
  void Run(const std::string& script) {
    supervisor_->Start(Shell(script), watched_.Events());
    ASSERT_TRUE(watched_.WaitForExit());
  }
  Watched watched_;  // outlives the supervisor
  std::unique_ptr<ProcessSupervisor> supervisor_ = ProcessSupervisor::Create().value();
};

TEST_F(ProcessSupervisorTest, ReportsExitCodes) {
  for (const int code : {0, 1, 64, 79, 255}) {
    Watched watched;
    supervisor_->Start(Shell("exit " + std::to_string(code)), watched.Events());
    ASSERT_TRUE(watched.WaitForExit());
    EXPECT_EQ(watched.exit_code(), code);
    EXPECT_EQ(watched.signal(), 0);
  }
}

TEST_F(ProcessSupervisorTest, ReportsSignals) {
  for (const int signal : {SIGKILL, SIGSEGV, SIGTERM}) {
    Watched watched;
    supervisor_->Start(Shell("kill -" + std::to_string(signal) + " $$"), watched.Events());
    ASSERT_TRUE(watched.WaitForExit());
    EXPECT_EQ(watched.signal(), signal);
  }
}

TEST_F(ProcessSupervisorTest, ReadsAllOutputBeforeTheExitIsTold) {
  Run("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo to stderr >&2; printf end");
  const std::string output = watched_.output();
  EXPECT_EQ(output.find("line 0\n"), 0u);
  EXPECT_NE(output.find("line 1999\n"), std::string::npos);
  EXPECT_NE(output.find("to stderr"), std::string::npos);
  EXPECT_TRUE(output.ends_with("end"));
}

TEST_F(ProcessSupervisorTest, AMissingProgramIsAFailureNotAnExit) {
  Launch launch = Shell("");
  launch.program = "/nonexistent/trainer";
  supervisor_->Start(launch, watched_.Events());
  ASSERT_TRUE(watched_.WaitForFailure());
  EXPECT_TRUE(absl::IsNotFound(watched_.failed())) << watched_.failed();
  EXPECT_EQ(watched_.pid(), 0);
}

TEST_F(ProcessSupervisorTest, PassesExactlyTheGivenEnvironment) {
  setenv("VLM_TEST_SECRET", "hunter2", 1);
  Launch launch = Shell("env");
  launch.environment = {"ONLY=this"};
  supervisor_->Start(launch, watched_.Events());
  ASSERT_TRUE(watched_.WaitForExit());
  EXPECT_NE(watched_.output().find("ONLY=this"), std::string::npos);
  EXPECT_EQ(watched_.output().find("hunter2"), std::string::npos);
}

TEST_F(ProcessSupervisorTest, PassesNoDescriptorButTheGuard) {
  // One that is not close-on-exec, as a careless library would leave it.
  const int careless = open("/dev/null", O_RDONLY);
  ASSERT_GT(careless, 3);
  Run("cat <&0; for f in /proc/self/fd/*; do echo fd ${f##*/}; done");
  close(careless);
  const std::string output = watched_.output();
  for (const char* wanted : {"fd 0\n", "fd 1\n", "fd 2\n", "fd 3\n"}) {
    EXPECT_NE(output.find(wanted), std::string::npos) << output;
  }
  EXPECT_EQ(output.find("fd " + std::to_string(careless) + "\n"), std::string::npos) << output;
}

TEST_F(ProcessSupervisorTest, TheGuardReadsEndOfFileWhenTheWorkerIsGone) {
  // The supervisor lives in a child process here, so that it can be killed.
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t worker = fork();
  if (worker == 0) {
    auto supervisor = ProcessSupervisor::Create().value();
    const std::string report = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(ends[1]);
    supervisor->Start(Shell("exec 5>" + report + "; echo ready >&5; read line <&3; echo gone >&5"),
                      {.started = [](int) {},
                       .failed = [](absl::Status) {},
                       .output = [](std::string) {},
                       .exited = [](int, int) {}});
    while (true) pause();
  }
  close(ends[1]);
  FILE* reports = fdopen(ends[0], "r");
  char line[16] = {};
  ASSERT_NE(fgets(line, sizeof(line), reports), nullptr);
  EXPECT_STREQ(line, "ready\n");
  kill(worker, SIGKILL);
  waitpid(worker, nullptr, 0);
  ASSERT_NE(fgets(line, sizeof(line), reports), nullptr);
  EXPECT_STREQ(line, "gone\n");
  fclose(reports);
}

TEST_F(ProcessSupervisorTest, ASignalReachesTheWholeGroup) {
  supervisor_->Start(Shell("sleep 100 & echo child $!; wait"), watched_.Events());
  ASSERT_TRUE(watched_.WaitForOutput("child"));
  supervisor_->Signal(watched_.pid(), SIGTERM);
  ASSERT_TRUE(watched_.WaitForExit());
  EXPECT_EQ(watched_.signal(), SIGTERM);
}

TEST_F(ProcessSupervisorTest, WhatARankLeavesBehindIsKilled) {
  Run("sleep 100 & echo $!");
  const int child = std::stoi(watched_.output());
  // A zombie that nobody reaps would still answer to kill(pid, 0): the supervisor is its subreaper.
  for (int i = 0; i < 2000 && kill(child, 0) == 0; ++i) {
    Watched next;
    supervisor_->Start(Shell("exit 0"), next.Events());
    ASSERT_TRUE(next.WaitForExit());
  }
  EXPECT_NE(kill(child, 0), 0);
}

TEST_F(ProcessSupervisorTest, AProcessThatIgnoresTermDiesOfKill) {
  supervisor_->Start(Shell("trap '' TERM; echo ready; while true; do sleep 0.05; done"), watched_.Events());
  ASSERT_TRUE(watched_.WaitForOutput("ready"));
  supervisor_->Signal(watched_.pid(), SIGTERM);
  supervisor_->Signal(watched_.pid(), SIGKILL);
  ASSERT_TRUE(watched_.WaitForExit());
  EXPECT_EQ(watched_.signal(), SIGKILL);
}

TEST_F(ProcessSupervisorTest, StartsWithDefaultSignalsWhateverThisProcessBlocks) {
  sigset_t blocked;
  sigfillset(&blocked);
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  Run("grep -E 'Sig(Blk|Ign)' /proc/self/status");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  EXPECT_NE(watched_.output().find("SigBlk:\t0000000000000000"), std::string::npos) << watched_.output();
}

TEST_F(ProcessSupervisorTest, SetsTheProcessorsBeforeTheProgramRuns) {
  cpu_set_t mine;
  sched_getaffinity(0, sizeof(mine), &mine);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &mine)) ++cpu;
  Launch launch = Shell("grep Cpus_allowed_list /proc/self/status");
  launch.cpus = {cpu};
  supervisor_->Start(launch, watched_.Events());
  ASSERT_TRUE(watched_.WaitForExit());
  EXPECT_NE(watched_.output().find("Cpus_allowed_list:\t" + std::to_string(cpu) + "\n"), std::string::npos)
      << watched_.output();
  Watched next;
  supervisor_->Start(Shell("grep Cpus_allowed_list /proc/self/status; exit 0"), next.Events());
  ASSERT_TRUE(next.WaitForExit());
  if (CPU_COUNT(&mine) > 1) {
    EXPECT_NE(next.output(), watched_.output()) << "the supervisor keeps its own processors";
  }
}

TEST_F(ProcessSupervisorTest, DestructionKillsWhatRuns) {
  supervisor_->Start(Shell("echo ready; sleep 100"), watched_.Events());
  ASSERT_TRUE(watched_.WaitForOutput("ready"));
  supervisor_.reset();
  EXPECT_NE(kill(watched_.pid(), 0), 0);
}

TEST_F(ProcessSupervisorTest, LeftoversAreKilledByNameAndNeverByPidAlone) {
  supervisor_->Start(Shell("echo ready; sleep 100"), watched_.Events());
  ASSERT_TRUE(watched_.WaitForOutput("ready"));
  const ProcessName name = NameProcess(watched_.pid()).value();
  EXPECT_GT(name.start_ticks, 0u);
  ProcessName other = name;
  other.start_ticks += 1;
  EXPECT_FALSE(KillLeftover(other).value()) << "a reused pid";
  EXPECT_EQ(kill(watched_.pid(), 0), 0);
  EXPECT_TRUE(KillLeftover(name).value());
  ASSERT_TRUE(watched_.WaitForExit());
  EXPECT_EQ(watched_.signal(), SIGKILL);
  EXPECT_FALSE(KillLeftover(name).value());
  EXPECT_TRUE(absl::IsNotFound(NameProcess(1 << 30).status()));
}

}  // namespace
}  // namespace vlm::worker
