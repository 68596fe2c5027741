// Drives the worker's core under virtual time, playing its shell and keeping what it put out.
#ifndef VLM_TESTS_UNIT_WORKER_CORE_HARNESS_H_
#define VLM_TESTS_UNIT_WORKER_CORE_HARNESS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/core/worker.h"

namespace vlm::worker {

class CoreHarness {
 public:
  explicit CoreHarness(WorkerOptions options = Options()) : options_(std::move(options)) {
    worker_ = std::make_unique<Worker>(options_);
    Take(worker_->Start(now_));
  }

  static WorkerOptions Options() {
    WorkerOptions options;
    options.identity.set_node_id("node-a");
    options.identity.set_incarnation(3);
    for (int i = 0; i < 2; ++i) *options.identity.add_devices() = Slot(i);
    options.data_roots = {"/data"};
    options.run_root = "/run";
    return options;
  }
  static v1::Device Slot(int index) {
    v1::Device device;
    device.set_kind(v1::DEVICE_KIND_CPU_SLOT);
    device.set_index(index);
    device.set_threads(1);
    return device;
  }
  static RankKey Key(int rank, uint64_t fence = 5) { return {"aa/" + std::to_string(fence), fence, rank}; }

  void Feed(const Input& input) { Take(worker_->Handle(now_, input)); }
  // Lets time pass, feeding TimePassed whenever the core asks for it.
  void Advance(absl::Duration by) {
    const absl::Duration end = now_ + by;
    int wakes = 0;
    while (worker_->NextWake() <= end && wakes++ < 100000) {
      now_ = std::max(now_, worker_->NextWake());
      Feed(TimePassed{});
    }
    now_ = end;
    Feed(TimePassed{});
  }

  void Coordinator(v1::SessionResponse message, uint64_t epoch = 1, uint64_t acknowledged = 0) {
    message.set_sequence(++response_sequence_);
    message.set_coordinator_epoch(epoch);
    message.set_acknowledged(acknowledged);
    Feed(FromCoordinator{std::move(message)});
  }
  void Connect() {
    response_sequence_ = 0;
    Feed(SessionOpened{});
  }
  void Welcome(std::vector<uint64_t> fences = {}, uint64_t epoch = 1) {
    v1::SessionResponse message;
    message.mutable_welcome();
    for (const uint64_t fence : fences) {
      v1::AllowedAttempt* allowed = message.mutable_welcome()->add_allowed();
      allowed->set_attempt_id("aa/" + std::to_string(fence));
      allowed->set_fence(fence);
    }
    Coordinator(std::move(message), epoch);
  }
  void Assign(std::vector<std::pair<int, int>> rank_and_slot, uint64_t fence = 5) {
    v1::SessionResponse message;
    v1::Assign* assign = message.mutable_assign();
    assign->set_attempt_id("aa/" + std::to_string(fence));
    assign->set_fence(fence);
    assign->set_world(static_cast<int>(rank_and_slot.size()));
    assign->set_secret("secret");
    assign->mutable_spec()->set_stage("pretrain");
    for (const auto& [rank, slot] : rank_and_slot) {
      v1::RankSlot* added = assign->add_ranks();
      added->set_rank(rank);
      *added->mutable_device() = Slot(slot);
    }
    Coordinator(std::move(message));
  }
  void StopOrder(uint64_t fence, absl::Duration grace, std::vector<int> ranks = {}) {
    v1::SessionResponse message;
    v1::Stop* stop = message.mutable_stop();
    stop->set_attempt_id("aa/" + std::to_string(fence));
    stop->set_fence(fence);
    stop->set_cause(v1::STOP_CAUSE_CANCEL);
    stop->mutable_grace()->set_seconds(absl::ToInt64Seconds(grace));
    for (const int rank : ranks) stop->add_ranks(rank);
    Coordinator(std::move(message));
  }
  void AcknowledgeResult(int rank, uint64_t fence = 5) {
    v1::SessionResponse message;
    message.mutable_result()->set_attempt_id("aa/" + std::to_string(fence));
    message.mutable_result()->set_rank(rank);
    Coordinator(std::move(message));
  }
  void Hello(const RankKey& key) {
    v1::AttachRequest message;
    message.mutable_hello();
    Feed(FromTrainer{key, message});
  }
  void Beat(const RankKey& key, v1::RankPhase phase = v1::RANK_PHASE_STEP, uint64_t step = 0) {
    v1::AttachRequest message;
    message.mutable_beat()->set_phase(phase);
    message.mutable_beat()->set_step(step);
    Feed(FromTrainer{key, message});
  }
  void Endpoint(const RankKey& key, const std::string& tcp) {
    v1::AttachRequest message;
    message.mutable_endpoint()->add_tcp(tcp);
    Feed(FromTrainer{key, message});
  }
  // Connected, welcomed, one rank on slot 0 spawned as pid 100 + rank and attached.
  void RunRank(int rank, int slot = 0, uint64_t fence = 5) {
    Assign({{rank, slot}}, fence);
    Feed(RankSpawned{Key(rank, fence), 100 + rank});
    Hello(Key(rank, fence));
  }

  // Everything of one kind since the last Clear.
  template <typename T>
  std::vector<T> All() const {
    std::vector<T> found;
    for (const Output& output : outputs_) {
      if (const T* of_kind = std::get_if<T>(&output)) found.push_back(*of_kind);
    }
    return found;
  }
  std::vector<v1::SessionRequest> Sent(v1::SessionRequest::KindCase kind) const {
    std::vector<v1::SessionRequest> found;
    for (const SendToCoordinator& send : All<SendToCoordinator>()) {
      if (send.message.kind_case() == kind) found.push_back(send.message);
    }
    return found;
  }
  const std::vector<Output>& outputs() const { return outputs_; }
  void Clear() { outputs_.clear(); }

  // By default results become durable at once.
  bool store_results = true;

  Worker& worker() { return *worker_; }
  absl::Duration now() const { return now_; }

 private:
  void Take(std::vector<Output> outputs) {
    for (Output& output : outputs) {
      outputs_.push_back(output);
      if (const StoreResult* store = std::get_if<StoreResult>(&output); store != nullptr && store_results) {
        Feed(ResultStored{store->rank});
      }
    }
  }

  WorkerOptions options_;
  std::unique_ptr<Worker> worker_;
  absl::Duration now_ = absl::Seconds(1000);
  uint64_t response_sequence_ = 0;
  std::vector<Output> outputs_;
};

}  // namespace vlm::worker

#endif  // VLM_TESTS_UNIT_WORKER_CORE_HARNESS_H_
