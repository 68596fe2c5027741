// The link against a worker played by the test, over a real Unix socket.
#include "trainer/worker_link.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "base/mutex.h"
#include "rpc/grpc_server.h"
#include "rpc/token.h"
#include "vlm/v1/trainer.pb.h"

namespace vlm::trainer {
namespace {

v1::AttachResponse RendezvousAt(const std::string& tcp, int ranks = 2) {
  v1::AttachResponse message;
  for (int rank = 0; rank < ranks; ++rank) {
    v1::Endpoint& endpoint = *message.mutable_rendezvous()->add_by_rank();
    endpoint.set_unix_socket("/run/rank-" + std::to_string(rank));
    endpoint.add_tcp(tcp);
  }
  return message;
}

v1::Start StartOf(int rank, int world) {
  v1::Start start;
  start.mutable_spec()->set_stage("sft");
  start.set_fence(5);
  start.set_rank(rank);
  start.set_world(world);
  start.mutable_orphan_grace()->set_seconds(420);
  return start;
}

// Serves Attach: answers a hello with Start, keeps what ranks say. Waits end after 20 s.
class PlayedWorker {
 public:
  explicit PlayedWorker(std::string socket, v1::Start start = StartOf(0, 2)) : socket_(std::move(socket)) {
    state_->start = std::move(start);
    Serve();
  }

  void Serve() {
    rpc::ServiceRegistry registry;
    registry.streams["/vlm.v1.TrainerService/Attach"] = [state = state_](const rpc::CallContext& context,
                                                                         std::shared_ptr<rpc::Stream> stream) {
      EXPECT_EQ(context.metadata.at(rpc::kAttemptTokenKey), "token");
      MutexLock lock(&state->mutex);
      state->stream = stream;
      return std::make_shared<Receiver>(state, std::move(stream));
    };
    server_ = rpc::GrpcServer::Create({.address = "unix:" + socket_}, std::move(registry)).value();
  }
  void Stop() {
    server_.reset();
    MutexLock lock(&state_->mutex);
    state_->stream = nullptr;
  }
  void Send(const v1::AttachResponse& message) {
    MutexLock lock(&state_->mutex);
    ASSERT_NE(state_->stream, nullptr);
    ASSERT_TRUE(state_->stream->Send(message.SerializeAsString()));
  }
  // The rank's next beat after this call: everything sent before the beat before that has been received.
  bool WaitForBeats(int count) {
    const int wanted = Count(&State::beats) + count;
    return WaitUntil([wanted](const State& state) { return state.beats >= wanted; });
  }
  bool WaitForHellos(int count) {
    return WaitUntil([count](const State& state) { return state.hellos >= count; });
  }
  bool WaitForEndpoints(int count) {
    return WaitUntil([count](const State& state) { return state.endpoints >= count; });
  }
  int points() { return Count(&State::points); }
  std::string failure() {
    MutexLock lock(&state_->mutex);
    return state_->failure;
  }

 private:
  struct State {
    v1::Start start;
    Mutex mutex;
    CondVar changed;
    std::shared_ptr<rpc::Stream> stream;
    int hellos = 0, beats = 0, endpoints = 0, points = 0;
    std::string failure;
  };
  class Receiver final : public rpc::StreamReceiver {
   public:
    Receiver(std::shared_ptr<State> state, std::shared_ptr<rpc::Stream> stream)
        : state_(std::move(state)), stream_(std::move(stream)) {}
    void OnMessage(std::string bytes) override {
      v1::AttachRequest message;
      ASSERT_TRUE(message.ParseFromString(bytes));
      if (message.has_hello()) {
        v1::AttachResponse answer;
        *answer.mutable_start() = state_->start;
        stream_->Send(answer.SerializeAsString());
      }
      MutexLock lock(&state_->mutex);
      state_->hellos += message.has_hello();
      state_->beats += message.has_beat();
      state_->endpoints += message.has_endpoint();
      state_->points += message.metrics().points_size();
      if (message.has_failure()) state_->failure = message.failure().message();
      state_->changed.NotifyAll();
    }
    void OnClosed(absl::Status) override { stream_->Close(absl::OkStatus()); }

   private:
    const std::shared_ptr<State> state_;
    const std::shared_ptr<rpc::Stream> stream_;
  };
  int Count(int State::* counter) {
    MutexLock lock(&state_->mutex);
    return (*state_).*counter;
  }
  template <typename F>
  bool WaitUntil(F reached) {
    MutexLock lock(&state_->mutex);
    while (!reached(*state_)) {
      if (!state_->changed.WaitFor(&state_->mutex, absl::Seconds(20))) return false;
    }
    return true;
  }

  const std::string socket_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
  std::unique_ptr<rpc::GrpcServer> server_;
};

LinkOptions OptionsFor(const std::string& socket) {
  LinkOptions options;
  options.socket = socket;
  options.token = "token";
  options.attempt_id = "6161/5";
  options.beat_interval = absl::Milliseconds(10);
  return options;
}

class WorkerLinkTest : public testing::Test {
 protected:
  void SetUp() override {
    auto link = WorkerLink::Connect(OptionsFor(socket_), RealClock());
    ASSERT_TRUE(link.ok()) << link.status();
    link_ = *std::move(link);
  }
  std::string PeerOf(const LinkEndpoint& mine) {
    const auto endpoints = link_->Rendezvous(mine, absl::Seconds(20));
    EXPECT_TRUE(endpoints.ok()) << endpoints.status();
    return endpoints.ok() && endpoints->size() == 2 ? endpoints->front().tcp : "";
  }

  const std::string socket_ = testing::TempDir() + "/link-" + std::to_string(getpid()) + ".sock";
  PlayedWorker worker_{socket_};
  std::unique_ptr<WorkerLink> link_;
};

TEST_F(WorkerLinkTest, AttachesAndLearnsItsAssignment) {
  EXPECT_EQ(link_->assignment().stage, "sft");
  EXPECT_EQ(link_->assignment().fence, 5u);
  EXPECT_EQ(link_->assignment().world, 2);
  EXPECT_TRUE(worker_.WaitForBeats(2));
}

TEST_F(WorkerLinkTest, CallsWaitForACoordinatorAsLongAsTheRankMayLiveWithoutOne) {
  EXPECT_EQ(link_->call_options().deadline, absl::Minutes(7));
}

TEST_F(WorkerLinkTest, ARendezvousThatComesAgainChangesNothing) {
  worker_.Send(RendezvousAt("127.0.0.1:1"));
  EXPECT_EQ(PeerOf({"/run/rank-0", "127.0.0.1:1", "boot", ""}), "127.0.0.1:1");
  worker_.Send(RendezvousAt("127.0.0.1:1"));
  worker_.Send(RendezvousAt("127.0.0.1:2"));
  EXPECT_TRUE(worker_.WaitForBeats(3)) << "the rank goes on";
  EXPECT_EQ(PeerOf({"/run/rank-0", "127.0.0.1:1", "boot", ""}), "127.0.0.1:1") << "one attempt, one set of peers";
}

TEST_F(WorkerLinkTest, AfterABrokenStreamItAttachesAgainTellsItsEndpointAndKeepsItsPeers) {
  worker_.Send(RendezvousAt("127.0.0.1:1"));
  EXPECT_EQ(PeerOf({"/run/rank-0", "127.0.0.1:1", "boot", ""}), "127.0.0.1:1");
  ASSERT_TRUE(worker_.WaitForEndpoints(1));
  worker_.Stop();
  worker_.Serve();
  ASSERT_TRUE(worker_.WaitForHellos(2));
  ASSERT_TRUE(worker_.WaitForEndpoints(2)) << "so that a restarted coordinator can complete a rendezvous";
  worker_.Send(RendezvousAt("127.0.0.1:2"));
  EXPECT_TRUE(worker_.WaitForBeats(3));
  EXPECT_EQ(PeerOf({"/run/rank-0", "127.0.0.1:1", "boot", ""}), "127.0.0.1:1");
}

TEST_F(WorkerLinkTest, AFailureIsSentBeforeTheCallReturns) {
  link_->ReportFailure(65, "row 7 has no image");
  // Sent is not yet received: the next beat follows it on the same stream.
  ASSERT_TRUE(worker_.WaitForBeats(2));
  EXPECT_EQ(worker_.failure(), "row 7 has no image");
}

// A rank's last words, as its process ends: the count of a pool, the loss of the last step.
TEST_F(WorkerLinkTest, WhatIsQueuedArrivesBeforeTheLinkEnds) {
  for (uint64_t step = 0; step < 5000; ++step) link_->AddMetric("loss", step, 1);
  link_->Flush();
  link_.reset();
  EXPECT_EQ(worker_.points(), 5000);
}

// Of a worker of another version: shards and peers are counted with these numbers.
TEST(WorkerLinkStart, AnAssignmentThatMakesNoSenseIsRefused) {
  int number = 0;
  for (const v1::Start& start : {StartOf(0, 0), StartOf(0, -1), StartOf(1, 2), StartOf(-1, 2), v1::Start()}) {
    const std::string socket =
        testing::TempDir() + "/start-" + std::to_string(getpid()) + "-" + std::to_string(number++) + ".sock";
    PlayedWorker worker(socket, start);
    const auto link = WorkerLink::Connect(OptionsFor(socket), RealClock());
    EXPECT_TRUE(absl::IsFailedPrecondition(link.status())) << start.ShortDebugString() << ": " << link.status();
  }
}

// Ranks that a pool takes in later are numbered on above its world; they meet nobody.
TEST(WorkerLinkStart, ARankAboveItsWorldHasNoPeers) {
  const std::string socket = testing::TempDir() + "/pool-" + std::to_string(getpid()) + ".sock";
  PlayedWorker worker(socket, StartOf(2, 2));
  LinkOptions options = OptionsFor(socket);
  options.rank = 2;
  const auto link = WorkerLink::Connect(options, RealClock());
  ASSERT_TRUE(link.ok()) << link.status();
  worker.Send(RendezvousAt("127.0.0.1:1"));
  const auto endpoints = (*link)->Rendezvous({}, absl::Seconds(20));
  EXPECT_TRUE(absl::IsFailedPrecondition(endpoints.status())) << endpoints.status();
}

TEST(WorkerLinkStart, AGraceThatMakesNoSenseIsTheServicesDefault) {
  v1::Start start = StartOf(0, 1);
  start.mutable_orphan_grace()->set_seconds(-5);
  start.mutable_device()->set_threads(-3);
  const std::string socket = testing::TempDir() + "/grace-" + std::to_string(getpid()) + ".sock";
  PlayedWorker worker(socket, start);
  const auto link = WorkerLink::Connect(OptionsFor(socket), RealClock());
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_EQ((*link)->call_options().deadline, absl::Minutes(10));
  EXPECT_EQ((*link)->assignment().threads, 1);
}

TEST_F(WorkerLinkTest, ARendezvousWithoutEveryRankIsRefused) {
  worker_.Send(RendezvousAt("127.0.0.1:1", /*ranks=*/1));
  const auto endpoints = link_->Rendezvous({}, absl::Seconds(20));
  EXPECT_TRUE(absl::IsFailedPrecondition(endpoints.status())) << endpoints.status();
}

TEST_F(WorkerLinkTest, PeersThatAreNotReadyInTimeAreUnavailable) {
  const auto endpoints = link_->Rendezvous({}, absl::Milliseconds(50));
  EXPECT_TRUE(absl::IsUnavailable(endpoints.status())) << endpoints.status();
}

}  // namespace
}  // namespace vlm::trainer
