#include "tests/sim/simulated_worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace vlm::sim {
namespace {

// A write is on disk only after this; a crash before that loses it. Equal for all, so that they keep their order.
constexpr absl::Duration kDiskWrite = absl::Milliseconds(2);

}  // namespace

SimulatedWorker::SimulatedWorker(World* world, int index, int slots)
    : world_(world), node_id_(absl::StrCat("node-", index)), slots_(slots) {}

void SimulatedWorker::Soon(absl::Duration delay, const char* label, std::function<void()> function) {
  world_->queue->After(delay, label, [this, life = life_, function = std::move(function)] {
    if (life == life_ && up()) function();
  });
}

void SimulatedWorker::Boot() {
  VLM_CHECK(!up(), "the worker runs already");
  ++life_;
  worker::WorkerOptions options;
  options.identity.set_node_id(node_id_);
  options.identity.set_incarnation(++incarnation_);
  options.identity.set_boot_id(absl::StrCat("boot-", node_id_));
  options.identity.set_state_uuid(absl::StrCat("state-", node_id_));
  options.identity.set_hostname(node_id_);
  options.identity.set_epoch_seen(epoch_seen_);
  options.identity.set_protocol_min(1);
  options.identity.set_protocol_max(1);
  for (int i = 0; i < slots_; ++i) {
    v1::Device* device = options.identity.add_devices();
    device->set_kind(v1::DEVICE_KIND_CPU_SLOT);
    device->set_index(i);
  }
  for (const auto& [key, result] : stored_results_) options.stored_results.push_back(result);
  options.run_root = "/run";
  planned_wake_ = up_until_ = down_until_ = absl::ZeroDuration();
  connecting_ = false;
  core_ = std::make_unique<worker::Worker>(std::move(options));
  for (const worker::Output& output : core_->Start(world_->queue->now())) Carry(output);
  PlanWake();
}

void SimulatedWorker::Crash() {
  if (!up()) return;
  core_.reset();
  ++life_;
  for (auto& [key, process] : processes_) process.trainer->Vanish();
  processes_.clear();
  held_.clear();
  if (session_ != 0) world_->service->SessionClosed(std::exchange(session_, 0));
}

void SimulatedWorker::Partition() {
  if (partitioned_) return;
  partitioned_ = true;
  partitioned_at_ = world_->queue->now();
}

// A short silence is bridged by retransmission; a long one has broken the connection.
void SimulatedWorker::Heal() {
  if (!partitioned_) return;
  partitioned_ = false;
  const bool broken = std::exchange(reset_on_heal_, false) ||
                      world_->queue->now() - partitioned_at_ > absl::Seconds(3) || world_->queue->Chance(0.5);
  std::vector<std::function<void()>> held = std::exchange(held_, {});
  if (broken) {
    BreakLink();
  } else {
    for (auto& deliver : held) deliver();
  }
}

void SimulatedWorker::BreakLink() {
  if (session_ == 0 || partitioned_) return;
  const uint64_t session = session_;
  held_.clear();
  world_->queue->After(Latency(), "link.broken", [this, session] { world_->service->SessionClosed(session); });
  session_ = 0;  // nothing of it arrives any more
  Soon(Latency(), "worker.disconnected", [this] { Disconnected("connection reset"); });
}

void SimulatedWorker::Closed(uint64_t session) {
  if (session != session_ || session == 0) return;
  if (partitioned_) {
    reset_on_heal_ = true;  // half-open: this side learns of it when packets pass again
    return;
  }
  session_ = 0;
  held_.clear();
  Soon(Latency(), "worker.closed", [this] { Disconnected("closed by the coordinator"); });
}

void SimulatedWorker::Disconnected(const std::string& reason) {
  Feed(worker::SessionLost{reason});
  Connect(world_->queue->Between(absl::Milliseconds(50), absl::Milliseconds(500)));
}

void SimulatedWorker::Connect(absl::Duration delay) {
  if (connecting_) return;
  connecting_ = true;
  Soon(delay, "worker.connect", [this] {
    connecting_ = false;
    if (session_ != 0) return;
    if (partitioned_ || !world_->service->up()) {
      Feed(worker::SessionLost{"cannot connect"});
      Connect(world_->queue->Between(absl::Milliseconds(50), absl::Milliseconds(500)));
      return;
    }
    session_ = world_->next_session++;
    up_until_ = down_until_ = world_->queue->now();
    Feed(worker::SessionOpened{});
  });
}

void SimulatedWorker::Transmit(absl::Duration* last, const char* label, std::function<void()> deliver) {
  *last = std::max(*last, world_->queue->now() + Latency());
  world_->queue->After(*last - world_->queue->now(), label, [this, session = session_, deliver = std::move(deliver)] {
    if (session != session_) return;
    if (partitioned_) {
      held_.push_back([this, session, deliver] {
        if (session == session_) deliver();
      });
    } else {
      deliver();
    }
  });
}

void SimulatedWorker::Receive(uint64_t session, const v1::SessionResponse& message) {
  if (session != session_ || session == 0) return;
  Transmit(&down_until_, "worker.message", [this, message] {
    if (up()) Feed(worker::FromCoordinator{message});
  });
}

void SimulatedWorker::Feed(const worker::Input& input) {
  if (!up()) return;
  for (const worker::Output& output : core_->Handle(world_->queue->now(), input)) {
    if (up()) Carry(output);
  }
  PlanWake();
}

void SimulatedWorker::PlanWake() {
  const absl::Duration wake = core_->NextWake();
  if (wake == absl::InfiniteDuration() || wake == planned_wake_) return;
  planned_wake_ = wake;
  Soon(std::max(absl::ZeroDuration(), wake - world_->queue->now()), "worker.tick", [this, wake] {
    if (planned_wake_ != wake) return;
    planned_wake_ = absl::ZeroDuration();
    Feed(worker::TimePassed{});
  });
}

void SimulatedWorker::Carry(const worker::Output& output) {
  EventQueue* queue = world_->queue;
  if (std::holds_alternative<worker::OpenSession>(output)) {
    Connect(Latency());
  } else if (const auto* close = std::get_if<worker::CloseSession>(&output)) {
    if (session_ != 0) {
      const uint64_t session = std::exchange(session_, 0);
      queue->After(Latency(), "link.closed", [this, session] { world_->service->SessionClosed(session); });
    }
    held_.clear();
    Connect(queue->Between(absl::Milliseconds(50), absl::Milliseconds(500)));
    queue->Trace(close->reason);
  } else if (const auto* send = std::get_if<worker::SendToCoordinator>(&output)) {
    if (session_ == 0) return;
    Transmit(&up_until_, "link.message",
             [this, session = session_, message = send->message] { world_->service->FromWorker(session, message); });
  } else if (const auto* spawn = std::get_if<worker::SpawnRank>(&output)) {
    Soon(queue->Between(absl::Milliseconds(20), absl::Milliseconds(100)), "worker.spawn",
         [this, spawn = *spawn] { Spawn(spawn); });
  } else if (const auto* signal = std::get_if<worker::SignalRank>(&output)) {
    const auto process = processes_.find(signal->rank);
    if (process != processes_.end()) process->second.trainer->Signal(signal->signal);
  } else if (const auto* to_trainer = std::get_if<worker::SendToTrainer>(&output)) {
    const auto process = processes_.find(to_trainer->rank);
    if (process == processes_.end()) return;
    queue->After(absl::Milliseconds(1), "trainer.message",
                 [trainer = process->second.trainer, message = to_trainer->message] { trainer->FromWorker(message); });
  } else if (const auto* store = std::get_if<worker::StoreResult>(&output)) {
    Soon(kDiskWrite, "worker.stored", [this, stored = *store] {
      stored_results_[stored.rank] = stored.result;
      Feed(worker::ResultStored{stored.rank});
    });
  } else if (const auto* remove = std::get_if<worker::RemoveResult>(&output)) {
    Soon(kDiskWrite, "worker.removed", [this, rank = remove->rank] { stored_results_.erase(rank); });
  } else if (const auto* read = std::get_if<worker::ReadNonce>(&output)) {
    Soon(absl::Milliseconds(2), "worker.nonce", [this, check = read->check] {
      const bool seen = world_->files->Stat(absl::StrCat(check.root(), "/", check.nonce_file())).ok();
      Feed(worker::RootRead{check.root(), seen ? "" : "no such file"});
    });
  } else if (const auto* epoch = std::get_if<worker::StoreEpoch>(&output)) {
    Soon(kDiskWrite, "worker.epoch", [this, seen = epoch->epoch] { epoch_seen_ = seen; });
  } else if (const auto* note = std::get_if<worker::Note>(&output)) {
    queue->Trace(note->text);
  }
}

void SimulatedWorker::Spawn(const worker::SpawnRank& spawn) {
  if (world_->queue->Chance(0.01)) {
    Feed(worker::RankSpawnFailed{spawn.rank, "no process to be had"});
    return;
  }
  for (const v1::InputArtifact& input : spawn.spec.inputs()) {
    if (input.folder().empty()) {
      world_->fail(
          absl::StrCat("a stage starts before its parent has ended: ", spawn.spec.stage(), ", ", input.stage()));
    }
  }
  for (const auto& [key, process] : processes_) {
    if (process.trainer->alive() && process.device == spawn.device.index()) {
      world_->fail(
          absl::StrCat("two ranks on one slot of ", node_id_, ": ", key.ToString(), " and ", spawn.rank.ToString()));
    }
  }
  auto trainer = std::make_shared<FakeTrainer>(spawn.rank, world_->next_pid++, spawn.spec, world_->queue, world_->files,
                                               world_->gangs, this);
  processes_[spawn.rank] = {trainer, spawn.device.index()};
  Feed(worker::RankSpawned{spawn.rank, trainer->pid()});
  if (up()) trainer->Begin();
}

std::vector<std::shared_ptr<FakeTrainer>> SimulatedWorker::Trainers() const {
  std::vector<std::shared_ptr<FakeTrainer>> trainers;
  for (const auto& [key, process] : processes_) {
    if (process.trainer->alive()) trainers.push_back(process.trainer);
  }
  return trainers;
}

void SimulatedWorker::ToWorker(const worker::RankKey& rank, const v1::AttachRequest& message) {
  Soon(absl::Milliseconds(1), "worker.attach", [this, rank, message] { Feed(worker::FromTrainer{rank, message}); });
}

void SimulatedWorker::RetryUntilAnswered(const worker::RankKey& rank, std::shared_ptr<bool> answered,
                                         std::function<void()> send) {
  Soon(Latency(), "proxy.call", [this, rank, answered, send] {
    const auto process = processes_.find(rank);
    if (*answered || process == processes_.end() || !process->second.trainer->alive()) return;
    if (!partitioned_ && world_->service->up()) send();
    Soon(world_->queue->Between(absl::Milliseconds(600), absl::Milliseconds(1200)), "proxy.retry",
         [this, rank, answered, send] { RetryUntilAnswered(rank, answered, send); });
  });
}

void SimulatedWorker::CallData(const worker::RankKey& rank, std::function<coordinator::Input(uint64_t)> make,
                               std::function<void(const coordinator::Reply&)> answer) {
  auto answered = std::make_shared<bool>(false);
  RetryUntilAnswered(rank, answered, [this, answered, make, answer] {
    world_->service->CallCoordinator(make, [this, answered, make, answer](const coordinator::Reply& reply) {
      world_->on_data_answer(make(reply.call), reply);
      if (world_->queue->Chance(0.05)) return;  // the answer is lost; the proxy asks again
      Soon(Latency(), "proxy.answer", [this, answered, answer, reply] {
        if (partitioned_ || std::exchange(*answered, true)) return;
        answer(reply);
      });
    });
  });
}

void SimulatedWorker::CallCheckpoint(const worker::RankKey& rank, checkpoint::Request request,
                                     std::function<void(const absl::StatusOr<checkpoint::Response>&)> answer) {
  auto answered = std::make_shared<bool>(false);
  RetryUntilAnswered(rank, answered, [this, answered, request, answer] {
    world_->service->CallCheckpoint(request, [this, answered, answer](const auto& response) {
      if (world_->queue->Chance(0.05)) return;
      Soon(Latency(), "proxy.answer", [this, answered, answer, response] {
        if (partitioned_ || std::exchange(*answered, true)) return;
        answer(response);
      });
    });
  });
}

void SimulatedWorker::ShardsTaken(const worker::RankKey& rank, std::vector<v1::HeldShard> shards) {
  Feed(worker::ShardsLeased{rank, std::move(shards)});
}

void SimulatedWorker::ShardDropped(v1::HeldShard shard) { Feed(worker::ShardReleased{std::move(shard)}); }

void SimulatedWorker::Exited(const worker::RankKey& rank, int exit_code, int signal, bool oom) {
  Soon(world_->queue->Between(absl::Milliseconds(1), absl::Milliseconds(20)), "worker.reaped",
       [this, rank, exit_code, signal, oom] {
         processes_.erase(rank);
         Feed(worker::RankReaped{rank, exit_code, signal, oom});
       });
}

}  // namespace vlm::sim
