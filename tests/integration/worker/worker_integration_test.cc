// vlm-worker as a process, against a coordinator played by the test and a scripted trainer.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <utility>

#include "base/file_system.h"
#include "checkpoint/client/checkpoint_client.h"
#include "rpc/grpc_channel.h"
#include "rpc/token.h"
#include "tests/integration/worker/running_worker.h"
#include "vlm/v1/data.pb.h"

namespace vlm::worker {
namespace {

// The ties act at once; this much is for a busy machine.
constexpr int kGoneWithinMs = 20'000;

std::string HttpGet(const std::string& url) {
  // "http://127.0.0.1:1234/metrics"
  const int port = std::stoi(url.substr(url.rfind(':') + 1));
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string text;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    char buffer[4096];
    for (ssize_t bytes; (bytes = read(fd, buffer, sizeof(buffer))) > 0;)
      text.append(buffer, static_cast<size_t>(bytes));
  }
  close(fd);
  return text;
}

class WorkerIntegrationTest : public RunningWorkerTest {};

TEST_F(WorkerIntegrationTest, SaysWhoItIs) {
  Connect();
  const v1::Hello hello = coordinator_->WaitForHello(1);
  EXPECT_EQ(hello.incarnation(), 1u);
  EXPECT_EQ(hello.devices_size(), 2);
  EXPECT_FALSE(hello.boot_id().empty());
  EXPECT_FALSE(hello.state_uuid().empty());
  EXPECT_GT(hello.memory_bytes(), 0u);
}

TEST_F(WorkerIntegrationTest, RunsAGangFromAssignToResultWithLogsAndMetrics) {
  Connect();
  const std::string script = "print started metric endpoint rendezvous lease flood 200000 part print done exit 0";
  coordinator_->Assign(5, {script, script});
  for (int32_t rank = 0; rank < 2; ++rank) {
    ASSERT_TRUE(coordinator_->WaitFor([rank](const auto& request) {
      return request.has_rank() && request.rank().has_endpoint() && request.rank().rank() == rank;
    }));
  }
  v1::SessionResponse message;
  message.mutable_rendezvous()->set_attempt_id("6161/5");
  message.mutable_rendezvous()->set_fence(5);
  message.mutable_rendezvous()->add_by_rank()->add_tcp("127.0.0.1:9000");
  message.mutable_rendezvous()->add_by_rank()->add_tcp("127.0.0.1:9001");
  coordinator_->Send(message);
  for (int32_t rank = 0; rank < 2; ++rank) {
    const v1::RankResult result = coordinator_->WaitForResult(rank);
    EXPECT_EQ(result.exit_code(), 0);
    EXPECT_EQ(result.failure(), v1::FAILURE_CLASS_UNSPECIFIED);
    EXPECT_EQ(result.last_step(), 5u);
  }
  ASSERT_TRUE(coordinator_->WaitForLog("done"));
  const std::string log = coordinator_->log();
  for (const char* line : {"started\n", "peer 127.0.0.1:9000\n", "peer 127.0.0.1:9001\n", "lease 4000\n",
                           "foreign lease refused\n", "part committed\n"}) {
    EXPECT_NE(log.find(line), std::string::npos) << line;
  }
  EXPECT_TRUE(coordinator_->WaitForPoint("loss"));
  EXPECT_TRUE(coordinator_->WaitForParts(2));
}

TEST_F(WorkerIntegrationTest, RenewsTheLeasesOfLivingRanks) {
  Connect();
  coordinator_->Assign(5, {"lease wait"});
  EXPECT_TRUE(coordinator_->WaitFor([](const auto& request) {
    return request.has_beat() && request.beat().shards_size() == 1 && request.beat().shards(0).lease_id() == 4000;
  }));
}

TEST_F(WorkerIntegrationTest, ReportsTheTrainersOwnWordsAndTheClassOfItsExit) {
  Connect();
  coordinator_->Assign(5, {"fail 65", "crash"});
  const v1::RankResult bad = coordinator_->WaitForResult(0);
  EXPECT_EQ(bad.failure(), v1::FAILURE_CLASS_BAD_DATA);
  EXPECT_EQ(bad.message().find("row 7 has no image"), 0u) << bad.message();
  const v1::RankResult crashed = coordinator_->WaitForResult(1);
  EXPECT_EQ(crashed.failure(), v1::FAILURE_CLASS_CRASH);
  EXPECT_EQ(crashed.signal(), SIGSEGV);
}

TEST_F(WorkerIntegrationTest, GivesTrainersAShortEnvironment) {
  Connect();
  coordinator_->Assign(5, {"environment print end exit 0"});
  ASSERT_TRUE(coordinator_->WaitForLog("end\n"));
  const std::string log = coordinator_->log();
  EXPECT_NE(log.find("env OMP_NUM_THREADS=1\n"), std::string::npos);
  EXPECT_EQ(log.find("hunter2"), std::string::npos);
  EXPECT_EQ(log.find(token_), std::string::npos);
}

TEST_F(WorkerIntegrationTest, StopsRanksThatIgnoreTerm) {
  Connect();
  coordinator_->Assign(5, {"wait", "ignore-term print deaf wait"});
  ASSERT_TRUE(coordinator_->WaitForLog("deaf"));
  ASSERT_TRUE(WaitForPhase(v1::RANK_PHASE_STEP));
  v1::SessionResponse message;
  message.mutable_stop()->set_attempt_id("6161/5");
  message.mutable_stop()->set_fence(5);
  message.mutable_stop()->mutable_grace()->set_nanos(300'000'000);
  coordinator_->Send(message);
  EXPECT_EQ(coordinator_->WaitForResult(0).signal(), SIGTERM);
  EXPECT_EQ(coordinator_->WaitForResult(1).signal(), SIGKILL);
}

TEST_F(WorkerIntegrationTest, KillsAFrozenRank) {
  Connect({"--frozen-after", "1"});
  coordinator_->Assign(5, {"freeze"});
  const v1::RankResult result = coordinator_->WaitForResult(0);
  EXPECT_EQ(result.failure(), v1::FAILURE_CLASS_HANG);
  EXPECT_EQ(result.signal(), SIGKILL);
}

TEST_F(WorkerIntegrationTest, RanksAndPartsOutliveACoordinatorRestart) {
  Connect();
  coordinator_->Assign(5, {"print up rendezvous part exit 0"});
  ASSERT_TRUE(coordinator_->WaitForLog("up"));
  ASSERT_TRUE(WaitForPhase(v1::RANK_PHASE_STEP));
  coordinator_->Stop();
  coordinator_->Allow("6161/5", 5);
  coordinator_->Start(2);
  const v1::Hello hello = coordinator_->WaitForHello(2);
  ASSERT_EQ(hello.held_size(), 1);
  EXPECT_EQ(hello.held(0).attempt_id(), "6161/5");
  EXPECT_EQ(hello.epoch_seen(), 1u);
  v1::SessionResponse message;
  message.mutable_rendezvous()->set_attempt_id("6161/5");
  message.mutable_rendezvous()->set_fence(5);
  message.mutable_rendezvous()->add_by_rank()->add_tcp("127.0.0.1:9000");
  coordinator_->Send(message);
  EXPECT_EQ(coordinator_->WaitForResult(0).exit_code(), 0);
  EXPECT_EQ(coordinator_->parts(), 1u);
}

TEST_F(WorkerIntegrationTest, APartIsKeptWhileTheCoordinatorIsAwayAndSentByTheNextWorker) {
  Connect();
  coordinator_->Assign(5, {"print up rendezvous part"});
  ASSERT_TRUE(coordinator_->WaitForLog("up"));
  v1::SessionResponse message;
  message.mutable_rendezvous()->set_attempt_id("6161/5");
  message.mutable_rendezvous()->set_fence(5);
  message.mutable_rendezvous()->add_by_rank()->add_tcp("127.0.0.1:9000");
  coordinator_->HoldParts();
  coordinator_->Send(message);
  ASSERT_EQ(AwaitStateNames("calls", 1).size(), 1u) << "the part is kept before it is sent";
  coordinator_->Stop();
  EXPECT_EQ(coordinator_->parts(), 0u);
  worker_->Signal(SIGKILL);
  EXPECT_EQ(worker_->WaitForExit(), -SIGKILL);
  coordinator_->Start(2);
  StartWorker();
  EXPECT_TRUE(coordinator_->WaitForParts(1));
  EXPECT_EQ(coordinator_->WaitForHello(2).incarnation(), 2u);
  EXPECT_EQ(AwaitStateNames("calls", 0).size(), 0u) << "an answered part is not kept any longer";
}

TEST_F(WorkerIntegrationTest, ASlotIsCleanAfterTheWorkerWasKilled) {
  Connect();
  const std::string uuid = coordinator_->WaitForHello(1).state_uuid();
  coordinator_->Assign(5, {"wait"});
  ASSERT_TRUE(WaitForPhase(v1::RANK_PHASE_STEP));
  const std::vector<int> trainers = Trainers(1);
  ASSERT_EQ(trainers.size(), 1u);
  const int trainer = trainers[0];
  ASSERT_EQ(kill(trainer, 0), 0);
  worker_->Signal(SIGKILL);
  EXPECT_EQ(worker_->WaitForExit(), -SIGKILL);
  StartWorker();
  const v1::Hello hello = coordinator_->WaitForHello(2);
  EXPECT_EQ(hello.incarnation(), 2u);
  EXPECT_EQ(hello.state_uuid(), uuid);
  EXPECT_EQ(hello.held_size(), 0);
  // The trainer died with its worker, or in the sweep before this Hello.
  std::ifstream stat("/proc/" + std::to_string(trainer) + "/stat");
  std::string line;
  if (std::getline(stat, line)) {
    EXPECT_NE(line.find(") Z "), std::string::npos) << "still running: " << line;
  }
}

TEST_F(WorkerIntegrationTest, TrainersEndWithAKilledWorkerAndNeedNoSweep) {
  Connect();
  // Rank 0 has both ties, rank 1 only the guard; neither heeds TERM.
  coordinator_->Assign(5, {"ignore-term print up-0 wait", "ignore-term unsignalled print up-1 wait"});
  ASSERT_TRUE(coordinator_->WaitForLog("up-0"));
  ASSERT_TRUE(coordinator_->WaitForLog("up-1"));
  const std::vector<int> trainers = Trainers(2);
  ASSERT_EQ(trainers.size(), 2u);
  std::vector<int> watched;
  for (const int pid : trainers) watched.push_back(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  worker_->Signal(SIGKILL);
  EXPECT_EQ(worker_->WaitForExit(), -SIGKILL);
  for (const int pidfd : watched) {
    pollfd wait = {.fd = pidfd, .events = POLLIN, .revents = 0};
    EXPECT_EQ(poll(&wait, 1, kGoneWithinMs), 1) << "a trainer outlives its worker";
    close(pidfd);
  }
}

TEST_F(WorkerIntegrationTest, ResultsAreReportedUntilAcceptedEvenByTheNextWorker) {
  coordinator_->AcknowledgeResults(false);
  Connect();
  coordinator_->Assign(5, {"fail 79"});
  EXPECT_EQ(coordinator_->WaitForResult(0).failure(), v1::FAILURE_CLASS_NUMERIC);
  worker_->Signal(SIGKILL);
  EXPECT_EQ(worker_->WaitForExit(), -SIGKILL);
  StartWorker();
  const v1::Hello second = coordinator_->WaitForHello(2);
  ASSERT_EQ(second.unacknowledged_size(), 1);
  EXPECT_EQ(second.unacknowledged(0).exit_code(), 79);
}

TEST_F(WorkerIntegrationTest, RanksOfAnOldFenceAreKilledBeforeTheWorkerReports) {
  Connect();
  coordinator_->Assign(5, {"ignore-term print up wait"});
  ASSERT_TRUE(coordinator_->WaitForLog("up"));
  ASSERT_TRUE(WaitForPhase(v1::RANK_PHASE_STEP));
  coordinator_->Stop();
  coordinator_->Disallow();
  coordinator_->Start(2);
  coordinator_->WaitForHello(2);
  EXPECT_EQ(coordinator_->WaitForResult(0).signal(), SIGKILL);
  bool second_hello = false;
  int hellos = 0;
  for (const v1::SessionRequest& request : coordinator_->requests()) {
    if (request.has_hello()) second_hello = ++hellos >= 2;
    if (second_hello && request.has_beat()) {
      EXPECT_EQ(request.beat().ranks_size(), 0);
    }
  }
}

TEST_F(WorkerIntegrationTest, TermStopsRanksDeliversResultsAndEnds) {
  Connect();
  coordinator_->Assign(5, {"wait"});
  ASSERT_TRUE(WaitForPhase(v1::RANK_PHASE_STEP));
  worker_->Signal(SIGTERM);
  const v1::RankResult result = coordinator_->WaitForResult(0);
  EXPECT_EQ(result.failure(), v1::FAILURE_CLASS_WORKER_LOST);
  EXPECT_EQ(worker_->WaitForExit(), 0);
}

TEST_F(WorkerIntegrationTest, AnswersRootChecks) {
  Connect();
  std::ofstream(folder_ + "/artifacts/nonce") << "abc";
  for (const auto& [root, nonce] : {std::pair(folder_ + "/artifacts", "abc"), {std::string("/etc"), "abc"}}) {
    v1::SessionResponse message;
    message.mutable_check_root()->set_root(root);
    message.mutable_check_root()->set_nonce_file("nonce");
    message.mutable_check_root()->set_nonce(nonce);
    coordinator_->Send(message);
  }
  EXPECT_TRUE(coordinator_->WaitFor([this](const auto& request) {
    return request.root_checked().root() == folder_ + "/artifacts" && request.root_checked().error().empty();
  }));
  EXPECT_TRUE(coordinator_->WaitFor([](const auto& request) {
    return request.root_checked().root() == "/etc" &&
           request.root_checked().error().find("not allowed") != std::string::npos;
  }));
}

TEST_F(WorkerIntegrationTest, TheTrainersSocketWantsAnAttemptToken) {
  Connect();
  auto channel = rpc::NewGrpcChannel({.address = "unix:" + folder_ + "/state/trainers.sock"});
  ASSERT_TRUE(channel.ok());
  v1::LeaseShardsRequest request;
  for (const rpc::Metadata& metadata :
       {rpc::Metadata{}, rpc::Metadata{{rpc::kAttemptTokenKey, ""}}, rpc::Metadata{{rpc::kAttemptTokenKey, token_}}}) {
    rpc::CallOptions options;
    options.metadata = metadata;
    const auto answer =
        rpc::CallAndWait<v1::LeaseShardsResponse>(channel->get(), "/vlm.v1.DataService/LeaseShards", request, options);
    EXPECT_TRUE(absl::IsUnauthenticated(answer.status())) << answer.status();
  }
  const auto open = rpc::CallAndWait(channel->get(), "/vlm.v1.CheckpointService/OpenAttempt", "", {});
  EXPECT_TRUE(absl::IsUnimplemented(open.status())) << "no trainer's business";
}

TEST_F(WorkerIntegrationTest, PassesOnWhatATrainersCheckpointClientCallsForItsOwnAttempt) {
  Connect();
  coordinator_->Assign(5, {"environment print end wait"});
  ASSERT_TRUE(coordinator_->WaitForLog("end\n"));
  const std::string log = coordinator_->log();
  const std::string name = "env VLM_ATTEMPT_TOKEN=";
  const size_t at = log.find(name);
  ASSERT_NE(at, std::string::npos);
  const std::string token = log.substr(at + name.size(), log.find('\n', at) - at - name.size());
  const auto channel = rpc::NewGrpcChannel(
      {.address = "unix:" + folder_ + "/state/trainers.sock", .metadata = {{rpc::kAttemptTokenKey, token}}});
  ASSERT_TRUE(channel.ok());
  const checkpoint::CheckpointClient client(channel->get(), {});
  const std::string stage = "aa";
  EXPECT_TRUE(client.BeginStep({.stage_uid = stage, .fence = 5, .step = 7, .cursor = ""}).ok());
  EXPECT_TRUE(client.AddPart({.stage_uid = stage, .fence = 5, .step = 7, .rank = 0, .files = {}}).ok());
  const absl::Status given_up = client.AbortStep(stage, 7, 5);
  EXPECT_TRUE(given_up.ok()) << given_up;
  EXPECT_TRUE(client.GetStep(stage, 7).ok());
  EXPECT_TRUE(client.GetLatest(stage).ok());
  EXPECT_EQ(coordinator_->parts(), 1u);

  EXPECT_TRUE(absl::IsPermissionDenied(client.AbortStep(stage, 7, 4))) << "another attempt's step";
  EXPECT_TRUE(absl::IsPermissionDenied(client.DeleteStep(stage, 7))) << "a finished step";
  EXPECT_TRUE(absl::IsPermissionDenied(client.AbortStep("bb", 7, 5))) << "another stage's step";
  EXPECT_TRUE(absl::IsUnimplemented(
      client.OpenAttempt({.stage_uid = stage, .fence = 5, .job_id = "j", .stage = "s", .root = "/"}).status()));
  EXPECT_TRUE(absl::IsUnimplemented(client.CommitArtifact(stage, 5, "model").status()));
  EXPECT_TRUE(absl::IsUnimplemented(client.ListStepsOfStage(stage).status()));
  EXPECT_TRUE(client.VerifyStep(stage, 7, absl::Seconds(30)).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(client.VerifyStep("bb", 7, absl::Seconds(30)).status())) << "another stage's";
  EXPECT_THAT(coordinator_->checkpoint_calls(),
              testing::ElementsAre("BeginStep", "DeleteStep", "GetStep", "GetLatest", "VerifyStep"));
}

// The line "Cpus_allowed_list" of a process, "0-1".
std::string CpusAllowed(int pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  const std::string name = "Cpus_allowed_list:\t";
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with(name)) return line.substr(name.size());
  }
  return "";
}

// The variable VLM_RANK that a process was started with.
std::string RankOf(int pid) {
  std::ifstream environment("/proc/" + std::to_string(pid) + "/environ");
  std::string entry;
  while (std::getline(environment, entry, '\0')) {
    if (entry.starts_with("VLM_RANK=")) return entry.substr(9);
  }
  return "";
}

TEST_F(WorkerIntegrationTest, EachSlotKeepsItsOwnOfTheProcessorsGiven) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  std::vector<std::string> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) cpus.push_back(std::to_string(cpu));
  }
  if (cpus.size() < 2) GTEST_SKIP() << "this process may use one processor only";
  for (const bool given : {true, false}) {
    StartWorker(given ? std::vector<std::string>{"--cpus", cpus[1] + "," + cpus[0]} : std::vector<std::string>());
    ASSERT_TRUE(coordinator_->WaitForBeatAfterHello(given ? 1 : 2));
    const uint64_t fence = given ? 5 : 6;
    coordinator_->Assign(fence, {"wait", "wait"});
    for (int32_t rank = 0; rank < 2; ++rank) {
      ASSERT_TRUE(coordinator_->WaitFor([&](const auto& request) {
        return request.has_rank() && request.rank().phase() == v1::RANK_PHASE_STEP && request.rank().rank() == rank &&
               request.rank().fence() == fence;
      }));
    }
    const std::vector<int> trainers = Trainers(2);
    ASSERT_EQ(trainers.size(), 2u);
    for (const int pid : trainers) {
      const std::string own = RankOf(pid) == "0" ? cpus[1] : cpus[0];
      EXPECT_EQ(CpusAllowed(pid), given ? own : CpusAllowed(getpid())) << "rank " << RankOf(pid);
    }
    worker_->Signal(SIGKILL);
    EXPECT_EQ(worker_->WaitForExit(), -SIGKILL);
  }
}

TEST_F(WorkerIntegrationTest, MetricsShowARunningRankAndForgetItsEnd) {
  Connect();
  ASSERT_TRUE(worker_->WaitForOutput("/metrics\n"));
  const std::string output = worker_->output();
  const size_t at = output.find("http://");
  const std::string url = output.substr(at, output.find('\n', at) - at);
  coordinator_->Assign(5, {"metric wait"});
  ASSERT_TRUE(coordinator_->WaitForPoint("loss"));
  const std::string text = HttpGet(url);
  EXPECT_NE(text.find("vlm_rank_loss{job=\"job-1\",rank=\"0\",stage=\"sft\"} 1.5"), std::string::npos) << text;
  EXPECT_NE(text.find("vlm_worker_connected 1"), std::string::npos);
  v1::SessionResponse stop;
  stop.mutable_stop()->set_attempt_id("6161/5");
  stop.mutable_stop()->set_fence(5);
  coordinator_->Send(stop);
  coordinator_->WaitForResult(0);
  EXPECT_EQ(HttpGet(url).find("job-1"), std::string::npos);
}

TEST_F(WorkerIntegrationTest, OneWorkerPerStateFolder) {
  Connect();
  Program second(supervisor_.get(), Arguments());
  EXPECT_EQ(second.WaitForExit(), 70);
  EXPECT_NE(second.output().find("another worker uses the state folder"), std::string::npos) << second.output();
}

TEST_F(WorkerIntegrationTest, RefusesBadCommandLines) {
  Program none(supervisor_.get(), {});
  EXPECT_EQ(none.WaitForExit(), 64);
  EXPECT_NE(none.output().find("--coordinator"), std::string::npos) << none.output();
  std::vector<std::string> far = Arguments();
  far[1] = "10.0.0.1:7000";
  Program remote(supervisor_.get(), far);
  EXPECT_EQ(remote.WaitForExit(), 64);
  EXPECT_NE(remote.output().find("10.0.0.1:7000"), std::string::npos) << remote.output();
  std::vector<std::string> missing = Arguments();
  missing[7] = "/nonexistent/trainer";
  Program trainer(supervisor_.get(), missing);
  EXPECT_EQ(trainer.WaitForExit(), 70);
  EXPECT_NE(trainer.output().find("/nonexistent/trainer"), std::string::npos);
  Program version(supervisor_.get(), {"version"});
  EXPECT_EQ(version.WaitForExit(), 0);
  EXPECT_EQ(version.output().find("vlm-worker "), 0u);
}

}  // namespace
}  // namespace vlm::worker
