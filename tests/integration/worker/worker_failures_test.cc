// What a worker does when its surroundings fail: another version, a port that is taken, memory that runs out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/integration/worker/running_worker.h"

namespace vlm::worker {
namespace {

class WorkerFailuresTest : public RunningWorkerTest {
 protected:
  // Lets a script go on behind its word "rendezvous".
  void Rendezvous(const std::string& attempt_id, uint64_t fence) {
    v1::SessionResponse message;
    message.mutable_rendezvous()->set_attempt_id(attempt_id);
    message.mutable_rendezvous()->set_fence(fence);
    message.mutable_rendezvous()->add_by_rank()->add_tcp("127.0.0.1:9000");
    coordinator_->Send(message);
  }
};

// A coordinator of another version refuses the worker; ranks that run go on, and are told of once it is welcome again.
TEST_F(WorkerFailuresTest, RanksOutliveACoordinatorOfAnotherVersion) {
  Connect();
  coordinator_->Assign(5, {"print up wait"});
  ASSERT_TRUE(coordinator_->WaitForLog("up"));
  const std::vector<int> trainers = Trainers(1);
  ASSERT_EQ(trainers.size(), 1u);
  coordinator_->Stop();
  coordinator_->RefuseHellos(absl::FailedPreconditionError(
      "INCOMPATIBLE_VERSION: install a worker of this coordinator's version; protocols here 7-9, there 1-1"));
  coordinator_->Start(2);
  const v1::Hello refused = coordinator_->WaitForHello(4);  // three sessions were refused
  ASSERT_EQ(refused.held_size(), 1);
  EXPECT_EQ(refused.held(0).pid(), trainers[0]);
  EXPECT_TRUE(worker_->WaitForOutput("INCOMPATIBLE_VERSION: install a worker of this coordinator's version"));
  EXPECT_EQ(kill(trainers[0], 0), 0) << "the rank goes on to the orphan grace";
  coordinator_->Allow("6161/5", 5);
  coordinator_->RefuseHellos(absl::OkStatus());
  EXPECT_TRUE(coordinator_->WaitForBeatAfterHello(4)) << "no beat follows a refused Hello: the worker is live again";
  EXPECT_EQ(kill(trainers[0], 0), 0);
}

TEST_F(WorkerFailuresTest, APortInUseIsRefusedAndNamed) {
  Connect();
  ASSERT_TRUE(worker_->WaitForOutput("metrics http://"));
  const std::string output = worker_->output();
  const size_t at = output.find("metrics http://") + std::string("metrics http://").size();
  const std::string address = output.substr(at, output.find('/', at) - at);
  std::vector<std::string> arguments = Arguments();
  arguments[5] = folder_ + "/other-state";
  arguments.insert(arguments.end(), {"--metrics-address", address});
  Program second(supervisor_.get(), arguments);
  EXPECT_EQ(second.WaitForExit(), 70);
  EXPECT_NE(second.output().find("metrics address cannot be listened on"), std::string::npos) << second.output();
  EXPECT_NE(second.output().find(address), std::string::npos) << second.output();
  EXPECT_TRUE(coordinator_->WaitForBeatAfterHello(1)) << "the first one is undisturbed";
}

// What the kernel counts is played by a file: a SIGKILL counts as want of memory only when the count has risen.
class CountedKillTest : public WorkerFailuresTest {
 protected:
  void Count(int kills) const {
    std::ofstream(events() + ".new") << "low 0\nhigh 0\nmax 9\noom 9\noom_kill " << kills << "\noom_group_kill 0\n";
    ASSERT_TRUE(PosixFileSystem()->Rename(events() + ".new", events()).ok());  // as the kernel's, never half written
  }
  // How a rank ends that dies of SIGKILL while the count is at `kills`; it was 4 before.
  v1::RankResult KilledAt(int kills) {
    Count(4);
    Connect({"--memory-events", events()});
    coordinator_->Assign(5, {"print up rendezvous kill"});
    EXPECT_TRUE(coordinator_->WaitForLog("up"));
    Count(kills);
    Rendezvous("6161/5", 5);
    return coordinator_->WaitForResult(0);
  }

  std::string events() const { return folder_ + "/memory.events"; }
};

TEST_F(CountedKillTest, WithARisenCountItIsOutOfMemory) {
  const v1::RankResult result = KilledAt(5);
  EXPECT_EQ(result.signal(), SIGKILL);
  EXPECT_EQ(result.failure(), v1::FAILURE_CLASS_OUT_OF_MEMORY);
  EXPECT_THAT(result.message(), testing::HasSubstr("the memory limit was reached"));
}

TEST_F(CountedKillTest, WithoutOneItIsACrash) {
  const v1::RankResult result = KilledAt(4);
  EXPECT_EQ(result.signal(), SIGKILL);
  EXPECT_EQ(result.failure(), v1::FAILURE_CLASS_CRASH);
}

// The count is shared: another rank's kill says nothing of this one.
TEST_F(CountedKillTest, ACountedKillIsOneRanks) {
  Count(4);
  Connect({"--memory-events", events()});
  coordinator_->Assign(5, {"print up rendezvous kill", "print beside wait"});
  ASSERT_TRUE(coordinator_->WaitForLog("up"));
  ASSERT_TRUE(coordinator_->WaitForLog("beside"));
  ASSERT_EQ(Trainers(2).size(), 2u);
  Count(5);
  Rendezvous("6161/5", 5);
  EXPECT_EQ(coordinator_->WaitForResult(0).failure(), v1::FAILURE_CLASS_OUT_OF_MEMORY);
  const std::vector<int> other = Trainers(1);
  ASSERT_EQ(other.size(), 1u);
  ASSERT_EQ(kill(other[0], SIGKILL), 0);
  const v1::RankResult result = coordinator_->WaitForResult(1);
  EXPECT_EQ(result.signal(), SIGKILL);
  EXPECT_EQ(result.failure(), v1::FAILURE_CLASS_CRASH) << result.ShortDebugString();
}

// A control group with a limit on memory, where this process may make one.
class MemoryGroup {
 public:
  explicit MemoryGroup(uint64_t bytes_max) {
    const std::string name = "/vlm-test-" + std::to_string(getpid());
    for (const auto& [root, limit, events] :
         {std::array<std::string, 3>{"/sys/fs/cgroup", "memory.max", "memory.events"},
          std::array<std::string, 3>{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", ""}}) {
      const std::string path = root + name + "/";
      if (mkdir(path.c_str(), 0700) != 0) continue;
      path_ = path;
      events_ = events.empty() ? "" : path + events;
      if (Write(limit, bytes_max)) return;  // only where the kernel has made the file, that is in a control group
      rmdir(std::exchange(path_, "").c_str());
    }
  }
  ~MemoryGroup() {
    if (!path_.empty()) rmdir(path_.c_str());
  }
  bool made() const { return !path_.empty(); }
  const std::string& events() const { return events_; }  // empty: the machine's count serves
  bool Add(int pid) const { return Write("cgroup.procs", static_cast<uint64_t>(pid)); }

 private:
  bool Write(const std::string& name, uint64_t value) const {
    std::ofstream file(path_ + name, std::ios::in | std::ios::out);  // which makes no file
    file << value << std::flush;
    return file.good();
  }
  std::string path_, events_;
};

TEST_F(WorkerFailuresTest, ARankThatTheKernelKillsForItsMemoryIsOutOfMemory) {
  const MemoryGroup group(96 << 20);
  if (!group.made()) GTEST_SKIP() << "no control group with a memory limit may be made here";
  Connect(group.events().empty() ? std::vector<std::string>()
                                 : std::vector<std::string>{"--memory-events", group.events()});
  coordinator_->Assign(5, {"print up rendezvous eat"});
  ASSERT_TRUE(coordinator_->WaitForLog("up"));
  const std::vector<int> trainers = Trainers(1);
  ASSERT_EQ(trainers.size(), 1u);
  ASSERT_TRUE(group.Add(trainers[0]));
  Rendezvous("6161/5", 5);
  const v1::RankResult result = coordinator_->WaitForResult(0);
  EXPECT_EQ(result.signal(), SIGKILL) << result.ShortDebugString();
  EXPECT_EQ(result.failure(), v1::FAILURE_CLASS_OUT_OF_MEMORY) << result.ShortDebugString();
}

}  // namespace
}  // namespace vlm::worker
