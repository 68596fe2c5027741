#include "coordinator/core/worker_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace vlm::coordinator {
namespace {

// Responses whose acknowledgement is awaited for the round trip; more are not measured.
constexpr size_t kInFlightMax = 64;
// Until one is measured. Acknowledgements wait for the worker's next message, so samples are upper bounds.
constexpr absl::Duration kRoundTripMax = absl::Milliseconds(500);

}  // namespace

bool SameDevice(const v1::Device& a, const v1::Device& b) { return a.kind() == b.kind() && a.index() == b.index(); }

void WorkerTable::Save(const Worker& worker) {
  ledger_->Put(kNodeFamily, worker.record.node_id(), worker.record.SerializeAsString());
}

void WorkerTable::Restore(v1::NodeRecord record) {
  auto worker = std::make_unique<Worker>();
  worker->record = std::move(record);
  const std::string id = worker->record.node_id();
  workers_[id] = std::move(worker);
}

void WorkerTable::OpenWindow(absl::Duration now) {
  window_until_ = now + options_->reattach_window;
  for (auto& [id, worker] : workers_) worker->heard = now;
}

absl::Status WorkerTable::Admit(const v1::Hello& hello) const {
  if (hello.protocol_min() > kProtocolMax || hello.protocol_max() < kProtocolMin) {
    return absl::FailedPreconditionError(
        absl::StrCat("INCOMPATIBLE_VERSION: install a worker of this coordinator's version; protocols here ",
                     kProtocolMin, "-", kProtocolMax, ", there ", hello.protocol_min(), "-", hello.protocol_max()));
  }
  if (hello.node_id().empty() || hello.state_uuid().empty()) {
    return absl::InvalidArgumentError("Hello needs node_id and state_uuid");
  }
  if (hello.epoch_seen() > kEpochMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("no coordinator can have had this epoch; give the worker a new state folder: epoch_seen ",
                     hello.epoch_seen(), ", highest possible ", kEpochMax));
  }
  const Worker* known = Find(hello.node_id());
  if (known != nullptr && known->record.state_uuid() != hello.state_uuid() &&
      (known->state != v1::NODE_STATE_LOST || !known->record.taken().empty())) {
    return absl::AlreadyExistsError(
        absl::StrCat("another worker has this node id; give this one a state folder of its "
                     "own: node ",
                     hello.node_id(), " is held by ", known->record.hostname()));
  }
  if (known != nullptr && known->record.state_uuid() == hello.state_uuid() &&
      hello.incarnation() < known->record.incarnation()) {
    return absl::FailedPreconditionError(absl::StrCat("a newer process of this worker has said Hello; incarnation ",
                                                      hello.incarnation(), ", newest ", known->record.incarnation()));
  }
  for (const auto& [id, other] : workers_) {
    if (id == hello.node_id() || other->state != v1::NODE_STATE_LIVE || other->record.boot_id() != hello.boot_id()) {
      continue;
    }
    for (const v1::Device& theirs : other->record.devices()) {
      for (const v1::Device& ours : hello.devices()) {
        if (!ours.uuid().empty() && ours.uuid() == theirs.uuid()) {
          return absl::AlreadyExistsError(
              absl::StrCat("another worker of this host offers this GPU: ", ours.uuid(), " is held by node ", id));
        }
      }
    }
  }
  return absl::OkStatus();
}

bool WorkerTable::Welcome(const v1::Hello& hello) {
  std::unique_ptr<Worker>& slot = workers_[hello.node_id()];
  const bool first = slot == nullptr;
  if (first) slot = std::make_unique<Worker>();
  Worker& worker = *slot;
  if (worker.session != 0) {
    ledger_->Effect(CloseSession{worker.session, absl::AbortedError("the worker has opened another session")});
    sessions_.erase(worker.session);
    worker.session = 0;
  }
  v1::NodeRecord record = worker.record;
  const bool fresh = first || record.incarnation() != hello.incarnation() || record.state_uuid() != hello.state_uuid();
  record.set_node_id(hello.node_id());
  record.set_state_uuid(hello.state_uuid());
  record.set_incarnation(hello.incarnation());
  record.set_boot_id(hello.boot_id());
  record.set_hostname(hello.hostname());
  record.set_build(hello.build());
  *record.mutable_devices() = hello.devices();
  const bool changed = record.SerializeAsString() != worker.record.SerializeAsString();
  worker.record = std::move(record);
  if (changed) Save(worker);
  const auto next = Next(worker.state, WorkerEvent::kHello);
  VLM_CHECK(next.has_value(), "Hello has a row for every worker state");
  worker.state = *next;
  worker.roots.clear();
  worker.heard = ledger_->now.monotonic;
  return fresh;
}

void WorkerTable::OpenSession(uint64_t session, Worker* worker) {
  worker->session = session;
  worker->sent = 0;
  worker->handled = 0;
  worker->in_flight.clear();
  worker->round_trip = kRoundTripMax;
  sessions_[session] = worker->record.node_id();
}

void WorkerTable::Unbind(uint64_t session) {
  const auto it = sessions_.find(session);
  if (it == sessions_.end()) return;
  Worker* worker = Find(it->second);
  if (worker != nullptr && worker->session == session) worker->session = 0;
  sessions_.erase(it);
}

void WorkerTable::Heard(Worker* worker, const v1::SessionRequest& message) {
  worker->heard = ledger_->now.monotonic;
  worker->heard_wall = ledger_->now.wall;
  worker->handled = std::max(worker->handled, message.sequence());
  while (!worker->in_flight.empty() && worker->in_flight.front().first <= message.acknowledged()) {
    worker->round_trip = std::min(worker->round_trip, ledger_->now.monotonic - worker->in_flight.front().second);
    worker->in_flight.pop_front();
  }
}

std::vector<Worker*> WorkerTable::TakeLost() {
  std::vector<Worker*> lost;
  const absl::Duration now = ledger_->now.monotonic;
  if (now < window_until_) return lost;
  for (auto& [id, worker] : workers_) {
    std::optional<v1::NodeState> next;
    if (worker->state == v1::NODE_STATE_UNKNOWN) {
      next = Next(worker->state, WorkerEvent::kWindowOver);
    } else if (worker->state == v1::NODE_STATE_LIVE && now - worker->heard > options_->lease) {
      next = Next(worker->state, WorkerEvent::kLeaseOver);
    }
    if (!next.has_value()) continue;
    worker->state = *next;
    if (worker->session != 0) {
      ledger_->Effect(CloseSession{worker->session, absl::DeadlineExceededError("the worker's lease is over")});
      Unbind(worker->session);
    }
    lost.push_back(worker.get());
  }
  return lost;
}

void WorkerTable::Forget(const std::string& node_id) {
  const auto it = workers_.find(node_id);
  VLM_CHECK(it != workers_.end() && it->second->state == v1::NODE_STATE_LOST && it->second->session == 0,
            "only a LOST worker is forgotten");
  ledger_->Delete(kNodeFamily, node_id);
  workers_.erase(it);
}

Worker* WorkerTable::Find(std::string_view node_id) {
  const auto it = workers_.find(std::string(node_id));
  return it == workers_.end() ? nullptr : it->second.get();
}
const Worker* WorkerTable::Find(std::string_view node_id) const {
  const auto it = workers_.find(std::string(node_id));
  return it == workers_.end() ? nullptr : it->second.get();
}
Worker* WorkerTable::BySession(uint64_t session) {
  const auto it = sessions_.find(session);
  return it == sessions_.end() ? nullptr : Find(it->second);
}

void WorkerTable::Send(Worker* worker, v1::SessionResponse message) {
  if (worker->session == 0) return;
  message.set_sequence(++worker->sent);
  message.set_acknowledged(worker->handled);
  message.set_coordinator_epoch(ledger_->meta.epoch());
  if (worker->in_flight.size() < kInFlightMax) {
    worker->in_flight.emplace_back(worker->sent, ledger_->now.monotonic);
  }
  ledger_->Effect(SendToWorker{worker->session, std::move(message)});
}

bool WorkerTable::IsTaken(const Worker& worker, const v1::Device& device) {
  return std::any_of(worker.record.taken().begin(), worker.record.taken().end(),
                     [&](const v1::TakenSlot& slot) { return SameDevice(slot.device(), device); });
}

void WorkerTable::TakeSlot(Worker* worker, const v1::Device& device, std::string_view attempt_id, uint64_t fence,
                           int32_t rank) {
  VLM_CHECK(!IsTaken(*worker, device), "a slot is given to one rank only");
  v1::TakenSlot* slot = worker->record.add_taken();
  *slot->mutable_device() = device;
  slot->set_attempt_id(std::string(attempt_id));
  slot->set_fence(fence);
  slot->set_rank(rank);
  Save(*worker);
}

bool WorkerTable::FreeSlot(Worker* worker, std::string_view attempt_id, int32_t rank) {
  auto* taken = worker->record.mutable_taken();
  const auto it = std::find_if(taken->begin(), taken->end(), [&](const v1::TakenSlot& slot) {
    return slot.attempt_id() == attempt_id && slot.rank() == rank;
  });
  if (it == taken->end()) return false;
  taken->erase(it);
  Save(*worker);
  return true;
}

}  // namespace vlm::coordinator
