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
  for (auto& [key, stray] : strays_) stray->Vanish();  // the sweep, before Hello
  strays_.clear();
  world_->forgotten.erase(node_id_);
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
  for (auto& [key, process] : processes_) {
    if (!process.trainer->alive()) continue;
    if (world_->queue->Chance(0.5)) {
      process.trainer->Vanish();
      continue;
    }
    ++world_->strays;
    strays_[key] = process.trainer;
    world_->queue->After(world_->queue->Between(absl::Milliseconds(500), absl::Seconds(12)), "stray.ends",
                         [stray = process.trainer] { stray->Vanish(); });
  }
  processes_.clear();
  condemned_.clear();
  held_.clear();
  if (session_ != 0) world_->service->SessionClosed(std::exchange(session_, 0));
}

void SimulatedWorker::Partition(bool session_only) {
  if (partitioned_) return;
  partitioned_ = true;
  session_only_ = session_only;
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
    condemned_.clear();
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
  if (message.has_assign()) CheckSlots(message.assign());
  Transmit(&down_until_, "worker.message", [this, message] {
    if (!up()) return;
    if (message.has_welcome()) NoteVerdict(message.welcome());
    Feed(worker::FromCoordinator{message});
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
    if (!send->message.has_hello()) CheckVerdict();
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
  // Whoever writes or calls as this rank is one process: a second one would pass every fence.
  if (!world_->started.insert(spawn.rank).second) {
    world_->fail(absl::StrCat("a rank was started twice: ", spawn.rank.ToString()));
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

std::shared_ptr<FakeTrainer> SimulatedWorker::FindTrainer(const worker::RankKey& rank) const {
  if (const auto process = processes_.find(rank); process != processes_.end()) return process->second.trainer;
  const auto stray = strays_.find(rank);
  return stray == strays_.end() ? nullptr : stray->second;
}

void SimulatedWorker::RetryUntilAnswered(std::shared_ptr<FakeTrainer> trainer, std::shared_ptr<bool> answered,
                                         std::function<void()> send) {
  EventQueue* queue = world_->queue;
  queue->After(Latency(), "proxy.call", [this, queue, trainer, answered, send] {
    if (*answered || trainer == nullptr || !trainer->alive()) return;
    const bool reaches = CallsPass() && world_->service->up();
    if (reaches && !(world_->hostile && queue->Chance(0.02))) send();
    if (reaches && world_->hostile && queue->Chance(0.05)) {
      ++world_->late_calls;
      queue->After(queue->Between(absl::Milliseconds(100), absl::Seconds(8)), "proxy.late", [this, send] {
        if (world_->service->up()) send();
      });
    }
    queue->After(queue->Between(absl::Milliseconds(600), absl::Milliseconds(1200)), "proxy.retry",
                 [this, trainer, answered, send] { RetryUntilAnswered(trainer, answered, send); });
  });
}

void SimulatedWorker::Answer(std::shared_ptr<bool> answered, std::function<void()> answer) {
  if (world_->queue->Chance(0.05)) return;  // lost; the proxy asks again
  world_->queue->After(Latency(), "proxy.answer", [this, answered, answer] {
    if (!CallsPass() || std::exchange(*answered, true)) return;
    answer();
  });
}

void SimulatedWorker::CallData(const worker::RankKey& rank, std::function<coordinator::Input(uint64_t)> make,
                               std::function<void(const coordinator::Reply&)> answer) {
  auto answered = std::make_shared<bool>(false);
  RetryUntilAnswered(FindTrainer(rank), answered, [this, answered, make, answer] {
    world_->service->CallCoordinator(make, [this, answered, make, answer](const coordinator::Reply& reply) {
      world_->on_data_answer(make(reply.call), reply);
      Answer(answered, [answer, reply] { answer(reply); });
    });
  });
}

void SimulatedWorker::CallCheckpoint(const worker::RankKey& rank, checkpoint::Request request,
                                     std::function<void(const absl::StatusOr<checkpoint::Response>&)> answer) {
  auto answered = std::make_shared<bool>(false);
  RetryUntilAnswered(FindTrainer(rank), answered, [this, answered, request, answer] {
    world_->service->CallCheckpoint(request, [this, answered, answer](const auto& response) {
      Answer(answered, [answer, response] { answer(response); });
    });
  });
}

// A slot is given to another rank only when the process that had it is gone. Not of a worker that was forgotten: its
// row, and what it held, is no longer known, and it kills what it holds before it starts anything.
void SimulatedWorker::CheckSlots(const v1::Assign& assign) const {
  if (world_->forgotten.contains(node_id_)) return;
  for (const v1::RankSlot& slot : assign.ranks()) {
    for (const auto& [key, process] : processes_) {
      if (!process.trainer->alive() || process.device != slot.device().index()) continue;
      if (key.attempt_id == assign.attempt_id() && key.rank == slot.rank()) continue;
      world_->fail(absl::StrCat("a slot of ", node_id_, " was given to rank ", slot.rank(), " of ", assign.attempt_id(),
                                " while ", key.ToString(), " runs on it"));
    }
  }
}

void SimulatedWorker::CheckTaken(const v1::NodeRecord& row) const {
  if (world_->forgotten.contains(node_id_)) return;
  for (const auto& [key, process] : processes_) {
    if (!process.trainer->alive()) continue;
    const bool taken = std::any_of(row.taken().begin(), row.taken().end(), [&, &key = key](const v1::TakenSlot& slot) {
      return slot.attempt_id() == key.attempt_id && slot.rank() == key.rank;
    });
    if (!taken) world_->fail(absl::StrCat("a slot of ", node_id_, " is free while ", key.ToString(), " runs on it"));
  }
}

void SimulatedWorker::NoteVerdict(const v1::Welcome& welcome) {
  condemned_.clear();
  for (const auto& [key, process] : processes_) {
    const auto& allowed = welcome.allowed();
    const bool kept = std::any_of(allowed.begin(), allowed.end(), [&, &key = key](const v1::AllowedAttempt& attempt) {
      return attempt.attempt_id() == key.attempt_id && attempt.fence() == key.fence;
    });
    if (!kept) condemned_.push_back(process.trainer);
  }
}

// What a Welcome does not allow is dead before the worker says another word.
void SimulatedWorker::CheckVerdict() const {
  for (const auto& trainer : condemned_) {
    if (!trainer->alive()) continue;
    world_->fail(absl::StrCat(
        node_id_, " reports while a rank runs that its Welcome did not allow: ", trainer->key().ToString()));
  }
}

void SimulatedWorker::ShardsTaken(const worker::RankKey& rank, std::vector<v1::HeldShard> shards) {
  Feed(worker::ShardsLeased{rank, std::move(shards)});
}

void SimulatedWorker::ShardDropped(v1::HeldShard shard) { Feed(worker::ShardReleased{std::move(shard)}); }

void SimulatedWorker::Exited(const worker::RankKey& rank, int exit_code, int signal, bool oom) {
  if (!processes_.contains(rank)) return;  // a stray has no parent to reap it
  Soon(world_->queue->Between(absl::Milliseconds(1), absl::Milliseconds(20)), "worker.reaped",
       [this, rank, exit_code, signal, oom] {
         processes_.erase(rank);
         Feed(worker::RankReaped{rank, exit_code, signal, oom});
       });
}

}  // namespace vlm::sim
