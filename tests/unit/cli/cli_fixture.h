// vlmctl run in this process against a fake coordinator over the memory transport.
#ifndef VLM_TESTS_UNIT_CLI_CLI_FIXTURE_H_
#define VLM_TESTS_UNIT_CLI_CLI_FIXTURE_H_

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/executor.h"
#include "base/mutex.h"
#include "cli/command_line.h"
#include "rpc/memory_transport.h"
#include "tests/unit/cli/fake_coordinator.h"

namespace vlm::cli {

// Text of one stream, for a test's thread to read while another writes.
class Captured {
 public:
  void Add(std::string_view text) {
    MutexLock lock(&mutex_);
    text_.append(text);
    changed_.NotifyAll();
  }
  void Clear() {
    MutexLock lock(&mutex_);
    text_.clear();
  }
  std::string text() const {
    MutexLock lock(&mutex_);
    return text_;
  }
  // Waits until `part` was written, at most 20 s.
  bool WaitFor(std::string_view part) const {
    const absl::Duration end = RealClock()->Monotonic() + absl::Seconds(20);
    MutexLock lock(&mutex_);
    while (text_.find(part) == std::string::npos) {
      const absl::Duration left = end - RealClock()->Monotonic();
      if (left <= absl::ZeroDuration()) return false;
      changed_.WaitFor(&mutex_, left);
    }
    return true;
  }

 private:
  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

// The real clock, moved ahead by a test.
class JumpingClock final : public Clock {
 public:
  absl::Duration Monotonic() const override { return RealClock()->Monotonic() + absl::Minutes(minutes_.load()); }
  absl::Time Wall() const override { return RealClock()->Wall() + absl::Minutes(minutes_.load()); }
  void Jump(int minutes) { minutes_ += minutes; }

 private:
  std::atomic<int> minutes_ = 0;
};

class CliFixture : public testing::Test {
 protected:
  CliFixture();

  // Runs one command against the fake, with a state folder that names it; out() and err() are what it wrote.
  int Run(std::vector<std::string> arguments);
  std::string out() const { return out_.text(); }
  std::string err() const { return err_.text(); }

  // The service as a verb gets it.
  std::unique_ptr<Service> NewService();

  // A file in this test's folder, and its path.
  std::string WriteFile(const std::string& name, const std::string& text);

  std::string folder_;  // of this test, new
  bool interactive_ = false;
  bool with_state_dir_ = true;
  Interrupt interrupt_;
  FakeCoordinator coordinator_;
  std::unique_ptr<Executor> executor_ = NewThreadExecutor("transport");
  rpc::MemoryTransport transport_{executor_.get()};
  Captured out_;
  Captured err_;
  World world_;
  std::vector<std::vector<std::string>> programs_;  // what run_program was asked to run, the path first
  int program_exit_code_ = 0;
  int request_ids_ = 0;
};

// The smallest valid job file.
inline constexpr char kJobYaml[] = R"(apiVersion: vlm/v1
kind: TrainingJob
metadata: {name: small}
spec:
  stages:
    - name: generate
      kind: generate
      generate:
        splits: [{name: sentences, samples: 48}]
)";

}  // namespace vlm::cli

#endif  // VLM_TESTS_UNIT_CLI_CLI_FIXTURE_H_
