// A worker as a process, against a coordinator played by the test and a scripted trainer.
#ifndef VLM_TESTS_INTEGRATION_WORKER_RUNNING_WORKER_H_
#define VLM_TESTS_INTEGRATION_WORKER_RUNNING_WORKER_H_

#include <gtest/gtest.h>
#include <sched.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file_system.h"
#include "base/mutex.h"
#include "rpc/token.h"
#include "tests/integration/worker/fake_coordinator.h"
#include "worker/process_supervisor.h"

namespace vlm::worker {

// One run of the program, its output and its end; waits end after 30 s.
class Program {
 public:
  Program(ProcessSupervisor* supervisor, std::vector<std::string> arguments) : supervisor_(supervisor) {
    supervisor->Start(
        {.program = VLM_WORKER_PROGRAM,
         .arguments = std::move(arguments),
         .environment = {"PATH=/usr/bin:/bin", "VLM_TEST_SECRET=hunter2"},
         .cpus = {}},
        {.started = [state = state_](int pid) { state->Change([&] { state->pid = pid; }); },
         .failed = [state = state_](const absl::Status&) { state->Change([&] { state->exit_code = -1; }); },
         .output = [state = state_](const std::string& bytes) { state->Change([&] { state->output += bytes; }); },
         .exited = [state = state_](
                       int exit_code,
                       int signal) { state->Change([&] { state->exit_code = signal != 0 ? -signal : exit_code; }); }});
  }
  void Signal(int signal) {
    ASSERT_TRUE(state_->Wait([this] { return state_->pid != 0; }));
    supervisor_->Signal(state_->pid, signal);
  }
  // The exit code, or the negative signal; nothing when it does not end.
  std::optional<int> WaitForExit() {
    state_->Wait([this] { return state_->exit_code.has_value(); });
    MutexLock lock(&state_->mutex);
    return state_->exit_code;
  }
  bool WaitForOutput(const std::string& text) {
    return state_->Wait([&] { return state_->output.find(text) != std::string::npos; });
  }
  std::string output() {
    MutexLock lock(&state_->mutex);
    return state_->output;
  }

 private:
  struct State {
    template <typename F>
    void Change(F change) {
      MutexLock lock(&mutex);
      change();
      changed.NotifyAll();
    }
    template <typename F>
    bool Wait(F predicate) {
      MutexLock lock(&mutex);
      while (!predicate()) {
        if (!changed.WaitFor(&mutex, absl::Seconds(30))) return false;
      }
      return true;
    }
    Mutex mutex;
    CondVar changed;
    int pid = 0;
    std::string output;
    std::optional<int> exit_code;
  };
  ProcessSupervisor* const supervisor_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

class RunningWorkerTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/w_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(RemoveTree(PosixFileSystem(), folder_).ok());
    ASSERT_TRUE(MakeDirectories(PosixFileSystem(), folder_ + "/artifacts").ok());
    token_ = rpc::CreateTokenFile(folder_ + "/token").value();
    coordinator_ = std::make_unique<FakeCoordinator>(token_);
    coordinator_->Start(1);
  }
  void TearDown() override {
    if (worker_ != nullptr && HasFailure()) std::fprintf(stderr, "%s\n", worker_->output().c_str());
    worker_.reset();
    supervisor_.reset();
  }
  std::vector<std::string> Arguments() const {
    return {"--coordinator",   coordinator_->address(),
            "--token-file",    folder_ + "/token",
            "--state-dir",     folder_ + "/state",
            "--trainer",       VLM_SCRIPTED_TRAINER,
            "--cpu-slots",     "2",
            "--artifact-root", folder_ + "/artifacts",
            "--data-root",     folder_ + "/data"};
  }
  void StartWorker(const std::vector<std::string>& more_arguments = {}) {
    std::vector<std::string> arguments = Arguments();
    arguments.insert(arguments.end(), more_arguments.begin(), more_arguments.end());
    worker_ = std::make_unique<Program>(supervisor_.get(), arguments);
  }
  // A worker that is welcome.
  void Connect(const std::vector<std::string>& more_arguments = {}) {
    StartWorker(more_arguments);
    ASSERT_TRUE(coordinator_->WaitForBeatAfterHello(1));
  }
  bool WaitForPhase(v1::RankPhase phase) {
    return coordinator_->WaitFor(
        [&](const auto& request) { return request.has_rank() && request.rank().phase() == phase; });
  }
  // The names in a folder of the worker's state, without files that are still being written.
  std::vector<std::string> StateNames(const std::string& folder) const {
    std::vector<std::string> names = PosixFileSystem()->List(folder_ + "/state/" + folder).value();
    std::erase_if(names, [](const std::string& name) { return name.find('.') != std::string::npos; });
    return names;
  }
  // The same, once there are `count`, which the worker writes behind its own back; fewer when they do not come.
  std::vector<std::string> AwaitStateNames(const std::string& folder, size_t count) const {
    const absl::Duration end = RealClock()->Monotonic() + absl::Seconds(30);
    std::vector<std::string> names = StateNames(folder);
    while (names.size() != count && RealClock()->Monotonic() < end) {
      sched_yield();
      names = StateNames(folder);
    }
    return names;
  }
  // The pids of the trainers that run; none when they are not `count`.
  std::vector<int> Trainers(size_t count) const {
    std::vector<int> pids;
    for (const std::string& name : AwaitStateNames("processes", count)) pids.push_back(std::stoi(name));
    EXPECT_EQ(pids.size(), count) << "trainers named in the state folder";
    return pids.size() == count ? pids : std::vector<int>();
  }

  std::string folder_;
  std::string token_;
  std::unique_ptr<FakeCoordinator> coordinator_;
  std::unique_ptr<ProcessSupervisor> supervisor_ = ProcessSupervisor::Create().value();
  std::unique_ptr<Program> worker_;
};

}  // namespace vlm::worker

#endif  // VLM_TESTS_INTEGRATION_WORKER_RUNNING_WORKER_H_
