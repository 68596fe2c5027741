// A trainer for tests of the worker: attaches, then does what the stage's text says, one word after another.
//
//   print TEXT | flood BYTES | endpoint | rendezvous | metric | lease | part | wait | freeze | ignore-term |
//   fail CODE | exit CODE | crash | environment | unsignalled (clears the parent-death signal: the guard remains)
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/mutex.h"
#include "rpc/grpc_channel.h"
#include "rpc/token.h"
#include "trainer/worker_ties.h"
#include "vlm/v1/checkpoint.pb.h"
#include "vlm/v1/data.pb.h"
#include "vlm/v1/trainer.pb.h"

namespace vlm {
namespace {

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

class Attached final : public rpc::StreamReceiver {
 public:
  void OnMessage(std::string bytes) override {
    v1::AttachResponse message;
    if (!message.ParseFromString(bytes)) std::_Exit(70);
    MutexLock lock(&mutex_);
    if (message.has_start()) start_ = message.start();
    if (message.has_rendezvous()) rendezvous_ = message.rendezvous();
    has_start_ = has_start_ || message.has_start();
    has_rendezvous_ = has_rendezvous_ || message.has_rendezvous();
    changed_.NotifyAll();
  }
  void OnClosed(absl::Status status) override {
    std::printf("attach closed: %s\n", std::string(absl::StatusCodeToString(status.code())).c_str());
    std::fflush(stdout);
    if (!status.ok()) std::_Exit(77);
  }
  v1::Start WaitForStart() {
    MutexLock lock(&mutex_);
    while (!has_start_) changed_.Wait(&mutex_);
    return start_;
  }
  v1::Rendezvous WaitForRendezvous() {
    MutexLock lock(&mutex_);
    while (!has_rendezvous_) changed_.Wait(&mutex_);
    return rendezvous_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool has_start_ = false;
  bool has_rendezvous_ = false;
  v1::Start start_;
  v1::Rendezvous rendezvous_;
};

class Script {
 public:
  Script() {
    channel_ = rpc::NewGrpcChannel({.address = "unix:" + Environment("VLM_WORKER_SOCKET"),
                                    .metadata = {{rpc::kAttemptTokenKey, Environment("VLM_ATTEMPT_TOKEN")}}})
                   .value();
    stream_ = channel_->Open("/vlm.v1.TrainerService/Attach", {.wait_for_ready = true}, attached_);
    v1::AttachRequest hello;
    hello.mutable_hello()->set_attempt_id(Environment("VLM_ATTEMPT_ID"));
    hello.mutable_hello()->set_rank(std::atoi(Environment("VLM_RANK").c_str()));
    hello.mutable_hello()->set_pid(getpid());
    Send(hello);
    start_ = attached_->WaitForStart();
    std::thread([this] { Beat(); }).detach();
  }

  void Run() {
    std::istringstream words(start_.spec().stage_json());
    std::string word;
    while (words >> word) Do(word, &words);
  }

 private:
  void Do(const std::string& word, std::istringstream* words) {
    v1::AttachRequest message;
    std::string argument;
    if (word == "print" || word == "flood" || word == "fail" || word == "exit") *words >> argument;
    if (word == "print") std::printf("%s\n", argument.c_str());
    if (word == "flood") std::printf("%s\n", std::string(std::stoul(argument), 'x').c_str());
    if (word == "environment") {
      for (char** entry = environ; *entry != nullptr; ++entry) std::printf("env %s\n", *entry);
    }
    std::fflush(stdout);
    if (word == "endpoint") {
      message.mutable_endpoint()->add_tcp("127.0.0.1:" + std::to_string(9000 + start_.rank()));
      Send(message);
    } else if (word == "rendezvous") {
      const v1::Rendezvous rendezvous = attached_->WaitForRendezvous();
      for (const v1::Endpoint& endpoint : rendezvous.by_rank()) std::printf("peer %s\n", endpoint.tcp(0).c_str());
      std::fflush(stdout);
    } else if (word == "metric") {
      v1::MetricPoint* point = message.mutable_metrics()->add_points();
      point->set_series("loss");
      point->set_step(3);
      point->set_value(1.5);
      Send(message);
    } else if (word == "lease") {
      Lease();
    } else if (word == "part") {
      AddPart();
    } else if (word == "unsignalled") {
      prctl(PR_SET_PDEATHSIG, 0);
    } else if (word == "ignore-term") {
      signal(SIGTERM, SIG_IGN);
    } else if (word == "wait" || word == "freeze") {
      beating_ = word != "freeze";
      while (true) pause();
    } else if (word == "fail") {
      message.mutable_failure()->set_exit_code(std::stoi(argument));
      message.mutable_failure()->set_message("row 7 has no image");
      Send(message);
      Flush();
      std::_Exit(std::stoi(argument));
    } else if (word == "exit") {
      Flush();
      std::_Exit(std::stoi(argument));
    } else if (word == "kill") {
      raise(SIGKILL);  // as the kernel does for want of memory
    } else if (word == "eat") {
      Eat();
    } else if (word == "crash") {
      signal(SIGSEGV, SIG_DFL);
      raise(SIGSEGV);
    }
  }

  // Touches memory until it is killed for it, or until the limit that the test set must have been passed long ago.
  void Eat() {
    constexpr size_t kBlockBytes = 1 << 20, kBlocks = 1024;
    static std::vector<std::vector<char>> blocks;
    while (blocks.size() < kBlocks) blocks.emplace_back(kBlockBytes, static_cast<char>(blocks.size()));
    std::printf("ate %zu blocks\n", blocks.size());
    std::fflush(stdout);
    Flush();
    std::_Exit(70);
  }

  void Lease() {
    v1::LeaseShardsRequest request;
    request.set_stage_uid(start_.spec().stage_uid());
    request.set_fence(start_.fence());
    request.set_rank(start_.rank());
    request.set_count(1);
    const auto leased = rpc::CallAndWait<v1::LeaseShardsResponse>(channel_.get(), "/vlm.v1.DataService/LeaseShards",
                                                                  request, {.deadline = absl::Seconds(30)});
    std::printf("lease %s\n", leased.ok() ? std::to_string(leased->leases(0).lease_id()).c_str()
                                          : leased.status().ToString().c_str());
    request.set_fence(start_.fence() + 1);
    const auto refused = rpc::CallAndWait<v1::LeaseShardsResponse>(channel_.get(), "/vlm.v1.DataService/LeaseShards",
                                                                   request, {.deadline = absl::Seconds(30)});
    std::printf("foreign lease %s\n", absl::IsPermissionDenied(refused.status()) ? "refused" : "GIVEN");
    std::fflush(stdout);
  }

  void AddPart() {
    v1::AddPartRequest request;
    request.set_stage_uid(start_.spec().stage_uid());
    request.set_fence(start_.fence());
    request.set_rank(start_.rank());
    request.set_step(7);
    const auto added = rpc::CallAndWait<v1::AddPartResponse>(channel_.get(), "/vlm.v1.CheckpointService/AddPart",
                                                             request, {.deadline = absl::Seconds(60)});
    std::printf("part %s\n", added.ok() ? "committed" : added.status().ToString().c_str());
    std::fflush(stdout);
  }

  void Beat() {
    Mutex mutex;
    CondVar never;
    uint64_t counter = 0;
    while (true) {
      if (beating_) {
        v1::AttachRequest message;
        message.mutable_beat()->set_phase(v1::RANK_PHASE_STEP);
        message.mutable_beat()->set_counter(++counter);
        message.mutable_beat()->set_step(5);
        Send(message);
      }
      MutexLock lock(&mutex);
      never.WaitFor(&mutex, absl::Milliseconds(50));
    }
  }

  // Half-closes and waits for the worker's end, so that everything sent has been read.
  void Flush() {
    beating_ = false;
    v1::GetLatestRequest request;
    request.set_stage_uid(start_.spec().stage_uid());
    (void)rpc::CallAndWait<v1::GetLatestResponse>(channel_.get(), "/vlm.v1.CheckpointService/GetLatest", request,
                                                  {.deadline = absl::Seconds(1)});
  }

  void Send(const v1::AttachRequest& message) { stream_->Send(message.SerializeAsString()); }

  const std::shared_ptr<Attached> attached_ = std::make_shared<Attached>();
  std::unique_ptr<rpc::Channel> channel_;
  std::unique_ptr<rpc::Stream> stream_;
  v1::Start start_;
  std::atomic<bool> beating_ = true;
};

}  // namespace
}  // namespace vlm

int main() {
  const vlm::trainer::WorkerTies ties = {std::atoi(vlm::Environment("VLM_WORKER_PID").c_str()),
                                         std::atoi(vlm::Environment("VLM_WORKER_GUARD_FD").c_str())};
  if (!vlm::trainer::TieToWorker(ties, [] { std::_Exit(70); }).ok()) return 70;
  vlm::Script script;
  script.Run();
  return 0;
}
