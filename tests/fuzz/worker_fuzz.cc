// The worker's core against any row of messages of the coordinator, of trainers and of its own shell.
//
// What it holds stays bounded by what it was told, a rank that was never spawned is never signalled, what it says of a
// rank's end is kept until it is acknowledged, and epochs that it stores grow.
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/message_builder.h"
#include "worker/core/worker.h"

namespace vlm::worker {
namespace {

using fuzz::FuzzInput;

constexpr int kOperationsMax = 128;
constexpr int kWakesMax = 64;

class FuzzedWorker {
 public:
  explicit FuzzedWorker(FuzzInput* input) : input_(*input) {
    WorkerOptions options;
    options.identity.set_node_id("node");
    options.identity.set_incarnation(3);
    for (int i = 0; i < 2; ++i) {
      v1::Device& device = *options.identity.add_devices();
      device.set_kind(v1::DEVICE_KIND_CPU_SLOT);
      device.set_index(i);
    }
    options.run_root = "/run";
    worker_ = std::make_unique<Worker>(std::move(options));
    Take(worker_->Start(now_));
  }

  void Run() {
    for (int operation = 0; operation < kOperationsMax && !input_.empty(); ++operation) Operate();
    Feed(ShutdownRequested{});
    for (int i = 0; i < 4; ++i) {
      ReapSignalled();
      Advance(absl::Minutes(5));
    }
  }

 private:
  void Feed(const Input& input) { Take(worker_->Handle(now_, input)); }

  void Take(const std::vector<Output>& outputs) {
    for (const Output& output : outputs) {
      if (const auto* spawn = std::get_if<SpawnRank>(&output)) {
        VLM_CHECK(spawned_.emplace(spawn->rank, 0).second, "a rank was spawned twice: " + spawn->rank.ToString());
        waiting_.push_back(spawn->rank);
        Learn(spawn->rank);
      } else if (const auto* signal = std::get_if<SignalRank>(&output)) {
        const auto found = spawned_.find(signal->rank);
        VLM_CHECK(found != spawned_.end() && found->second == signal->pid && signal->pid > 0,
                  "a signal to a process that is none of ours");
        signalled_.insert(signal->rank);
      } else if (const auto* store = std::get_if<StoreResult>(&output)) {
        to_store_.push_back(store->rank);
      } else if (const auto* epoch = std::get_if<StoreEpoch>(&output)) {
        VLM_CHECK(epoch->epoch > epoch_, "the stored epoch goes back");
        epoch_ = epoch->epoch;
      } else if (const auto* send = std::get_if<SendToCoordinator>(&output)) {
        VLM_CHECK(send->message.sequence() > sequence_, "a sequence number comes again");
        sequence_ = send->message.sequence();
      }
    }
    VLM_CHECK(worker_->Ranks().size() <= spawned_.size() + waiting_for_slots(), "ranks out of nowhere");
  }

  // Ranks that wait for their slot to be free were named in an Assign, too.
  size_t waiting_for_slots() const { return assigned_; }

  void Learn(const RankKey& key) {
    auto& attempts = known_.texts["attempt_id"];
    if (attempts.size() < 8 && std::find(attempts.begin(), attempts.end(), key.attempt_id) == attempts.end()) {
      attempts.push_back(key.attempt_id);
    }
  }

  RankKey AnyRank() {
    if (spawned_.empty()) return {"aa/1", 1, 0};
    return std::next(spawned_.begin(), static_cast<std::ptrdiff_t>(input_.Below(spawned_.size())))->first;
  }

  void Advance(absl::Duration by) {
    const absl::Duration end = now_ + by;
    for (int wakes = 0; worker_->NextWake() <= end && wakes < kWakesMax; ++wakes) {
      now_ = std::max(now_, worker_->NextWake());
      Feed(TimePassed{});
    }
    now_ = end;
    Feed(TimePassed{});
  }

  // A process that was told to end does.
  void ReapSignalled() {
    for (const RankKey& rank : std::exchange(signalled_, {})) Reap(rank, 0, 15);
    StoreResults();
  }

  void Reap(const RankKey& rank, int exit_code, int signal) {
    const auto found = spawned_.find(rank);
    if (found == spawned_.end() || found->second == 0) return;
    spawned_.erase(found);
    signalled_.erase(rank);
    Feed(RankReaped{rank, exit_code, signal, input_.Byte() % 8 == 1});
  }

  void StoreResults() {
    while (!to_store_.empty()) {
      const RankKey rank = to_store_.front();
      to_store_.pop_front();
      Feed(ResultStored{rank});
    }
  }

  void SpawnNext() {
    if (waiting_.empty()) return;
    const RankKey rank = waiting_.front();
    waiting_.pop_front();
    if (!spawned_.contains(rank)) return;
    if (input_.Byte() % 8 == 1) {
      spawned_.erase(rank);
      return Feed(RankSpawnFailed{rank, "no such program"});
    }
    spawned_[rank] = ++last_pid_;
    Feed(RankSpawned{rank, last_pid_});
  }

  void Welcome() {
    v1::SessionResponse message;
    message.set_sequence(++response_);
    message.set_coordinator_epoch(std::max<uint64_t>(epoch_, 1));
    message.mutable_welcome();
    Feed(FromCoordinator{std::move(message)});
  }

  void Assign() {
    v1::SessionResponse message;
    message.set_sequence(++response_);
    message.set_coordinator_epoch(std::max<uint64_t>(epoch_, 1));
    v1::Assign& assign = *message.mutable_assign();
    const uint64_t fence = 1 + input_.Below(4);
    assign.set_attempt_id("aa/" + std::to_string(fence));
    assign.set_fence(fence);
    assign.set_world(2);
    for (int rank = 0; rank < 2; ++rank) {
      v1::RankSlot& slot = *assign.add_ranks();
      slot.set_rank(rank);
      slot.mutable_device()->set_kind(v1::DEVICE_KIND_CPU_SLOT);
      slot.mutable_device()->set_index(rank);
    }
    Tell(std::move(message));
  }

  void Tell(v1::SessionResponse message) {
    if (message.has_assign()) assigned_ += static_cast<size_t>(message.assign().ranks_size());
    Feed(FromCoordinator{std::move(message)});
  }

  void Operate() {
    switch (input_.Below(18)) {
      case 0:
        response_ = 0;
        return Feed(SessionOpened{});
      case 1:
        return Welcome();
      case 2:
        return Assign();
      case 3:
        return SpawnNext();
      case 4:
        return Reap(AnyRank(), std::vector<int>{0, 70, 80, 1}[input_.Below(4)], 0);
      case 5:
        return ReapSignalled();
      case 6:
        return StoreResults();
      case 7:
        return Advance(absl::Milliseconds(static_cast<int64_t>(input_.Byte()) * 250));
      case 8:
        return Feed(SessionLost{"broken"});
      case 9:
        return Feed(TrainerDetached{AnyRank()});
      case 10: {
        v1::HeldShard shard;
        ReadMessage(known_, &input_, &shard);
        return input_.Byte() % 2 == 0 ? Feed(ShardsLeased{AnyRank(), {shard}}) : Feed(ShardReleased{shard});
      }
      case 11:
        return Feed(RootRead{"/artifacts", std::string(input_.Text())});
      case 12:
        return Feed(DiskMeasured{input_.Number()});
      case 13:
      case 14: {
        v1::AttachRequest message;
        ReadMessage(known_, &input_, &message);
        return Feed(FromTrainer{AnyRank(), std::move(message)});
      }
      default: {
        v1::SessionResponse message;
        ReadMessage(known_, &input_, &message);
        // Most are in order; those of an old epoch or a repeated number are dropped.
        if (input_.Byte() < 200) {
          message.set_sequence(++response_);
          message.set_coordinator_epoch(std::max<uint64_t>(epoch_, 1));
        }
        return Tell(std::move(message));
      }
    }
  }

  FuzzInput& input_;
  std::unique_ptr<Worker> worker_;
  absl::Duration now_ = absl::Seconds(100);
  std::map<RankKey, int> spawned_;  // to its pid; 0: on its way
  std::deque<RankKey> waiting_;     // to be spawned
  std::set<RankKey> signalled_;
  std::deque<RankKey> to_store_;
  size_t assigned_ = 0;
  uint64_t epoch_ = 0, sequence_ = 0, response_ = 0;
  int last_pid_ = 100;
  fuzz::KnownValues known_ = {{{"attempt_id", {"aa/1"}}, {"root", {"/artifacts"}}},
                              {{"fence", {1, 2, 3, 4}}, {"rank", {0, 1}}, {"sequence", {1, 2, 3}}, {"index", {0, 1}}}};
};

}  // namespace
}  // namespace vlm::worker

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  vlm::worker::FuzzedWorker(&input).Run();
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  // Connected and welcomed; two ranks assigned and spawned; one ends, the other's results are stored.
  const std::string begin("\x00\x01\x02\x00\x03\x00\x03\x00", 8);
  std::vector<std::string> seeds = {begin, begin + std::string("\x04\x00\x01\x00\x06\x07\x20\x08\x00\x01", 10),
                                    begin + std::string("\x02\x01\x07\xff\x05\x06\x03\x00", 8)};
  Rng rng(RngKey{13});
  for (int i = 0; i < 12; ++i) {
    std::string seed = begin;
    for (int byte = 0; byte < 400; ++byte) seed += static_cast<char>(rng.Below(256));
    seeds.push_back(std::move(seed));
  }
  return seeds;
}
