// One suite for every backend: what train/collective.h promises.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <new>
#include <thread>

#include "base/out_of_memory.h"
#include "base/random.h"
#include "coordinator/core/options.h"
#include "tests/unit/collectives/collective_group.h"
#include "train/cuda/nccl_backend.h"
#include "train/end_together.h"

namespace vlm::train {
namespace {

using ::testing::HasSubstr;

struct Group {
  Transport transport;
  int world;
};

std::string NameOf(const ::testing::TestParamInfo<Group>& info) {
  static constexpr const char* kNames[] = {"Single", "SharedMemory", "Tcp"};
  return kNames[static_cast<int>(info.param.transport)] + std::to_string(info.param.world);
}

class CollectiveTest : public ::testing::TestWithParam<Group> {
 protected:
  void Run(const std::function<absl::Status(Collective*)>& body, CollectiveOptions options = {absl::Seconds(60)}) {
    for (const absl::Status& status : RunRanks(GetParam().transport, GetParam().world, options, body)) {
      EXPECT_TRUE(status.ok()) << status;
    }
  }
};

at::Tensor RandomTensor(uint64_t seed, int64_t numel) {
  at::Tensor tensor = at::empty({numel}, at::kFloat);
  Rng rng(RngKey{seed});
  float* const data = tensor.data_ptr<float>();
  for (int64_t i = 0; i < numel; ++i) data[i] = static_cast<float>(rng.Normal());
  return tensor;
}

TEST_P(CollectiveTest, ReduceScatterAddsInRankOrderBitForBit) {
  for (const bool allocated : {true, false}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      Run([&](Collective* collective) -> absl::Status {
        const int world = collective->world();
        // Larger than the staging area, so that it is crossed in pieces.
        const int64_t shard = 700'001, numel = shard * world;
        at::Tensor send = at::empty({numel}, type);
        if (allocated) {
          VLM_ASSIGN_OR_RETURN(send, collective->Allocate(numel, type, "send"));
        }
        at::Tensor accumulator = RandomTensor(99, shard);
        for (int round = 0; round < 2; ++round) {
          send.copy_(RandomTensor(static_cast<uint64_t>(10 * round + collective->rank()), numel));
          at::Tensor expected = accumulator.clone();
          for (int rank = 0; rank < world; ++rank) {
            const at::Tensor theirs =
                RandomTensor(static_cast<uint64_t>(10 * round + rank), numel).to(type).to(at::kFloat);
            expected += theirs.narrow(0, collective->rank() * shard, shard);
          }
          VLM_RETURN_IF_ERROR(collective->ReduceScatterAdd(send, true, accumulator, "gradient"));
          EXPECT_TRUE(at::equal(accumulator, expected)) << allocated << " " << type << " " << round;
        }
        return absl::OkStatus();
      });
    }
  }
}

TEST_P(CollectiveTest, ARankMayContributeNothing) {
  Run([](Collective* collective) -> absl::Status {
    const int world = collective->world();
    at::Tensor accumulator = at::full({100}, -0.0f);  // adding zeros would turn -0 into +0
    const bool contributes = collective->rank() != 0;
    const at::Tensor send = at::full({100 * world}, contributes ? 1.0f : std::nanf(""));
    VLM_RETURN_IF_ERROR(collective->ReduceScatterAdd(send, contributes, accumulator, "gradient"));
    EXPECT_TRUE(at::equal(accumulator, at::full({100}, static_cast<float>(world - 1))));
    if (world == 1) {
      EXPECT_TRUE(std::signbit(accumulator[0].item<float>()));
    }
    return absl::OkStatus();
  });
}

// Where the shard lies, and the whole: with `in_place` in its place there.
struct Gather {
  bool whole_allocated, in_place, shard_allocated;
};

absl::Status GatherOnce(const Gather& gather, Collective* collective) {
  const int64_t shard = 1'500'000, numel = shard * collective->world();
  at::Tensor full = at::zeros({numel}, at::kFloat);
  if (gather.whole_allocated) {
    VLM_ASSIGN_OR_RETURN(full, collective->Allocate(numel, at::kFloat, "weights"));
  }
  const at::Tensor mine = RandomTensor(static_cast<uint64_t>(collective->rank()), shard);
  at::Tensor source = mine;
  if (gather.in_place) source = full.narrow(0, collective->rank() * shard, shard);
  if (gather.shard_allocated) {
    VLM_ASSIGN_OR_RETURN(source, collective->Allocate(shard, at::kFloat, "shard"));
  }
  source.copy_(mine);
  VLM_RETURN_IF_ERROR(collective->AllGather(source, full, "weights"));
  for (int rank = 0; rank < collective->world(); ++rank) {
    EXPECT_TRUE(at::equal(full.narrow(0, rank * shard, shard), RandomTensor(static_cast<uint64_t>(rank), shard)));
  }
  return absl::OkStatus();
}

TEST_P(CollectiveTest, AllGatherFillsEveryRank) {
  for (const Gather& gather : {Gather{true, true, false}, Gather{true, false, false}, Gather{false, true, false},
                               Gather{false, false, false}, Gather{false, false, true}}) {
    Run([&](Collective* collective) { return GatherOnce(gather, collective); });
  }
}

TEST_P(CollectiveTest, BytesOfAnyLengthArriveInRankOrder) {
  Run([](Collective* collective) -> absl::Status {
    auto text = [](int rank) {
      return std::string(static_cast<size_t>(rank) * 5'000'000, static_cast<char>('a' + rank));
    };
    for (int round = 0; round < 3; ++round) {
      VLM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                           collective->AllGatherBytes(text(collective->rank()), "header"));
      EXPECT_EQ(all.size(), static_cast<size_t>(collective->world()));
      for (int rank = 0; rank < collective->world(); ++rank) EXPECT_TRUE(all[static_cast<size_t>(rank)] == text(rank));
    }
    return absl::OkStatus();
  });
}

TEST_P(CollectiveTest, ManySmallOperationsKeepTheirOrder) {
  Run([](Collective* collective) -> absl::Status {
    at::Tensor accumulator = at::zeros({8});
    for (int i = 0; i < 300; ++i) {
      const at::Tensor send = at::full({8 * collective->world()}, static_cast<float>(collective->rank() + i));
      VLM_RETURN_IF_ERROR(collective->ReduceScatterAdd(send, true, accumulator, "a"));
      VLM_RETURN_IF_ERROR(collective->Barrier("b"));
    }
    const int world = collective->world();
    const float expected = static_cast<float>(300 * world * (world - 1) / 2 + world * 299 * 300 / 2);
    EXPECT_TRUE(at::equal(accumulator, at::full({8}, expected)));
    EXPECT_GE(collective->sequence(), 600u);
    return absl::OkStatus();
  });
}

INSTANTIATE_TEST_SUITE_P(All, CollectiveTest,
                         ::testing::Values(Group{Transport::kSingle, 1}, Group{Transport::kSharedMemory, 2},
                                           Group{Transport::kSharedMemory, 3}, Group{Transport::kSharedMemory, 4},
                                           Group{Transport::kTcp, 2}, Group{Transport::kTcp, 3}),
                         NameOf);

// Long enough for any machine; a wait that takes it fails the test instead of standing until CTest ends it.
constexpr absl::Duration kPatience = absl::Seconds(60);

[[nodiscard]] bool Eventually(const std::function<bool()>& done) {
  const absl::Duration end = RealClock()->Monotonic() + kPatience;
  while (!done()) {
    if (RealClock()->Monotonic() >= end) return false;
    std::this_thread::yield();
  }
  return true;
}

// Stands still while ranks connect, so that no deadline can pass; runs from Start on.
class HeldClock final : public Clock {
 public:
  absl::Duration Monotonic() const override {
    return started_ ? RealClock()->Monotonic() - start_ : absl::ZeroDuration();
  }
  absl::Time Wall() const override { return absl::UnixEpoch(); }
  void Start() {
    start_ = RealClock()->Monotonic();
    started_ = true;
  }

 private:
  absl::Duration start_;
  std::atomic<bool> started_{false};
};

class CollectiveFailureTest : public ::testing::TestWithParam<Transport> {};

TEST_P(CollectiveFailureTest, ALateRankEndsInADeadlineThatNamesIt) {
  HeldClock clock;
  std::atomic<bool> first_done{false};
  const CollectiveOptions options{.deadline = absl::Milliseconds(200), .clock = &clock};
  const std::vector<absl::Status> statuses =
      RunRanks(GetParam(), 2, options, [&](Collective* collective) -> absl::Status {
        absl::Status status = collective->Barrier("connected");
        if (collective->rank() == 1) {
          EXPECT_TRUE(Eventually([&] { return first_done.load(); }));
          return status;
        }
        clock.Start();
        if (status.ok()) status = collective->Barrier("start");
        first_done = true;
        return status;
      });
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(statuses[0].message()), HasSubstr("rank 1"));
  EXPECT_THAT(std::string(statuses[0].message()), HasSubstr("start"));
}

TEST_P(CollectiveFailureTest, ADeadRankEndsTheWaitAtOnce) {
  const std::vector<absl::Status> statuses =
      RunRanks(GetParam(), 3, {absl::Minutes(5)}, [](Collective* collective) -> absl::Status {
        if (collective->rank() == 2) return absl::OkStatus();  // its collective is destroyed
        return collective->Barrier("start");
      });
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kUnavailable) << statuses[0];
  EXPECT_EQ(statuses[1].code(), absl::StatusCode::kUnavailable) << statuses[1];
}

TEST_P(CollectiveFailureTest, HealthShowsADeadRankWithoutAnOperation) {
  std::atomic<bool> seen_alive{false};
  const std::vector<absl::Status> statuses =
      RunRanks(GetParam(), 2, {absl::Minutes(5)}, [&](Collective* collective) -> absl::Status {
        VLM_RETURN_IF_ERROR(collective->Barrier("start"));
        if (collective->rank() == 1) {
          EXPECT_TRUE(Eventually([&] { return seen_alive.load(); }));
          return absl::OkStatus();  // its collective is destroyed
        }
        EXPECT_TRUE(collective->health().ok()) << collective->health();
        seen_alive = true;
        EXPECT_TRUE(Eventually([&] { return !collective->health().ok(); }));
        return collective->health();
      });
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kUnavailable) << statuses[0];
  EXPECT_THAT(std::string(statuses[0].message()), HasSubstr("rank 1"));
}

TEST_P(CollectiveFailureTest, HealthShowsAnAbort) {
  RunRanks(GetParam(), 2, {absl::Minutes(5)}, [&](Collective* collective) -> absl::Status {
    VLM_RETURN_IF_ERROR(collective->Barrier("start"));
    if (collective->rank() == 0) collective->Abort("the worker is going away");
    EXPECT_TRUE(Eventually([&] { return !collective->health().ok(); }));
    if (collective->rank() == 0) {
      EXPECT_EQ(collective->health().code(), absl::StatusCode::kAborted);
    }
    return absl::OkStatus();
  });
}

TEST_P(CollectiveFailureTest, DisagreementNamesBothSides) {
  const std::vector<absl::Status> statuses =
      RunRanks(GetParam(), 2, {absl::Seconds(20)}, [](Collective* collective) -> absl::Status {
        at::Tensor accumulator = at::zeros({4});
        return collective->ReduceScatterAdd(at::ones({8}), true, accumulator,
                                            collective->rank() == 0 ? "llm.blocks.0" : "llm.blocks.1");
      });
  int named = 0;
  for (const absl::Status& status : statuses) {
    EXPECT_FALSE(status.ok());
    const std::string message(status.message());
    named += message.find("llm.blocks.0") != std::string::npos && message.find("llm.blocks.1") != std::string::npos;
  }
  EXPECT_GE(named, 1);  // the other may only see the first one leave
}

TEST_P(CollectiveFailureTest, AbortEndsAWaitAndEverythingAfter) {
  std::atomic<Collective*> waiting{nullptr};
  std::atomic<bool> aborted{false}, ended{false};
  std::thread aborter([&] {
    if (Eventually([&] { return waiting.load() != nullptr; })) waiting.load()->Abort("the worker is going away");
    aborted = true;
  });
  const std::vector<absl::Status> statuses =
      RunRanks(GetParam(), 2, {absl::Minutes(5)}, [&](Collective* collective) -> absl::Status {
        if (collective->rank() == 1) {
          EXPECT_TRUE(Eventually([&] { return ended.load(); }));
          return collective->Barrier("later");
        }
        waiting = collective;
        const absl::Status status = collective->Barrier("start");
        EXPECT_EQ(collective->Barrier("again").code(), absl::StatusCode::kAborted);
        ended = true;
        EXPECT_TRUE(Eventually([&] { return aborted.load(); }));  // it uses the collective until it returns
        return status;
      });
  aborter.join();
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kAborted) << statuses[0];
  EXPECT_FALSE(statuses[1].ok());
}

// Three ranks end as the trainer's do, rank 1 by `fail`. The others hear `reason`; returns what rank 1 ends with.
absl::Status EndOfRank1(Transport transport, const std::function<absl::Status()>& fail, const std::string& reason) {
  const std::vector<absl::Status> statuses = RunRanks(transport, 3, {absl::Minutes(5)}, [&](Collective* collective) {
    return EndTogether([&] { return collective; },
                       [&]() -> absl::Status {
                         VLM_RETURN_IF_ERROR(collective->Barrier("start"));
                         return collective->rank() == 1 ? fail() : collective->Barrier("next");
                       });
  });
  for (const int rank : {0, 2}) {
    const absl::Status& status = statuses[static_cast<size_t>(rank)];
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1: " + reason));
  }
  return statuses[1];
}

TEST_P(CollectiveFailureTest, WhoFailsTellsItsPeersWhy) {
  const absl::Status damage = absl::DataLossError("shard 7 is damaged");
  EXPECT_EQ(EndOfRank1(GetParam(), [&] { return damage; }, "shard 7 is damaged"), damage);
}

TEST_P(CollectiveFailureTest, WhoThrowsTellsItsPeersWhyToo) {
  const auto mistake = []() -> absl::Status { TORCH_CHECK(false, "sizes do not match"); };
  const absl::Status status = EndOfRank1(GetParam(), mistake, "training failed: sizes do not match");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  const auto no_memory = []() -> absl::Status { throw std::bad_alloc(); };
  EXPECT_TRUE(IsOutOfMemory(EndOfRank1(GetParam(), no_memory, "training failed: out of memory")));
}

TEST(EndTogetherTest, AFailureBeforeRanksAreConnectedIsTheirs) {
  const auto nobody = [] { return static_cast<Collective*>(nullptr); };
  EXPECT_EQ(EndTogether(nobody, [] { return absl::NotFoundError("no manifest"); }).message(), "no manifest");
  EXPECT_TRUE(EndTogether(nobody, [] { return absl::OkStatus(); }).ok());
}

// A rank that hangs is to be found where it hangs, not by those that wait for it.
TEST(CollectiveDeadlineTest, IsLongerThanEverySilenceThatTheCoordinatorAllows) {
  const coordinator::CoordinatorOptions allowed;
  for (const absl::Duration silence :
       {allowed.start_timeout, allowed.hang_init, allowed.hang_load, allowed.hang_eval, allowed.hang_save,
        allowed.hang_publish, allowed.hang_first_steps, allowed.hang_step_min}) {
    EXPECT_GT(CollectiveOptions().deadline, silence);
    EXPECT_GT(NcclOptions().deadline, silence);
  }
}

TEST_P(CollectiveFailureTest, ALongReasonIsCut) {
  const std::vector<absl::Status> statuses =
      RunRanks(GetParam(), 2, {absl::Minutes(5)}, [](Collective* collective) -> absl::Status {
        if (collective->rank() == 0) return collective->Barrier("start");
        collective->Abort(std::string(100'000, 'x'));
        return collective->Barrier("after");
      });
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kAborted) << statuses[0];
  EXPECT_THAT(std::string(statuses[0].message()), HasSubstr(": " + std::string(512, 'x')));
  EXPECT_LT(statuses[0].message().size(), 600u);
  EXPECT_EQ(statuses[1].code(), absl::StatusCode::kAborted) << statuses[1];
}

// A clock that, once told to, passes a minute at every look: deadlines are the injected clock's, not the machine's.
class LeapingClock final : public Clock {
 public:
  absl::Duration Monotonic() const override { return absl::Minutes(leaping_ ? looks_.fetch_add(1) : 0); }
  absl::Time Wall() const override { return absl::UnixEpoch(); }
  void Leap() { leaping_ = true; }

 private:
  std::atomic<bool> leaping_{false};
  mutable std::atomic<int64_t> looks_{1};
};

TEST_P(CollectiveFailureTest, DeadlinesAreOfTheGivenClock) {
  LeapingClock clock;
  std::atomic<bool> first_done{false};
  const std::vector<absl::Status> statuses = RunRanks(GetParam(), 2, {.deadline = absl::Seconds(50), .clock = &clock},
                                                      [&](Collective* collective) -> absl::Status {
                                                        VLM_RETURN_IF_ERROR(collective->Barrier("connected"));
                                                        if (collective->rank() == 0) {
                                                          clock.Leap();
                                                          const absl::Status status = collective->Barrier("start");
                                                          first_done = true;
                                                          return status;
                                                        }
                                                        EXPECT_TRUE(Eventually([&] { return first_done.load(); }));
                                                        return absl::OkStatus();
                                                      });
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kDeadlineExceeded) << statuses[0];
}

INSTANTIATE_TEST_SUITE_P(All, CollectiveFailureTest, ::testing::Values(Transport::kSharedMemory, Transport::kTcp));

}  // namespace
}  // namespace vlm::train
