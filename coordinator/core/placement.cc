// Which waiting stage gets which slots, and the proof that a worker sees a job's artifacts.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/core/core.h"

namespace vlm::coordinator {
namespace {

// An asked worker that says nothing for so long does not hold up the others.
constexpr absl::Duration kRootAnswerMax = absl::Seconds(10);
constexpr absl::Duration kRootLook = absl::Seconds(5);

// What a queued stage's wait is counted under: "behind" until it was looked at.
std::string WaitKind(const Stage& stage) { return stage.wait_kind.empty() ? "behind" : stage.wait_kind; }

}  // namespace

void Coordinator::Core::Schedule() {
  if (!schedule_) return;
  if (workers_changed_) queue_.Unpark();
  workers_changed_ = false;
  head_.clear();
  // Each turn takes its stage out of the ready ones, or ends the loop.
  while (!queue_.ready().empty()) {
    const QueueKey key = *queue_.ready().begin();
    Stage* stage = ledger_.stages.at(key.stage_uid);
    AskRootsFor(*stage->job);
    const PlacementWish wish{stage->record.ranks_min(), stage->record.ranks_max(), stage->job->record.device()};
    const PlacementDecision decision = DecidePlacement(wish, Offers(*stage->job));
    if (!decision.ranks.empty()) {
      OpenAttempt(stage, decision);
      continue;
    }
    stage->record.set_reason(decision.reason);
    if (stage->wait_kind != decision.kind) {
      // Stored when the kind changes only: numbers in the text change with every worker, for every stage.
      CountWait(stage);
      stage->wait_kind = decision.kind;
      ledger_.Touch(*stage);
      ledger_.Event(stage->job, stage, "stage.waiting", decision.reason);
    }
    root_waiting_ = root_waiting_ || decision.kind == "root";
    if (decision.reserve) {
      head_ = absl::StrCat(stage->record.job_id(), "/", stage->record.name());
      break;
    }
    queue_.Park(key);
  }
  schedule_ = false;
  if (!head_.empty()) return;
  const std::vector<std::string> busy(ledger_.busy.begin(), ledger_.busy.end());
  for (const std::string& uid : busy) {
    Stage* stage = ledger_.stages.at(uid);
    if (stage->record.state() == v1::STAGE_STATE_ACTIVE) FillVacancies(stage);
  }
}

void Coordinator::Core::CountWait(Stage* stage) {
  waited_[WaitKind(*stage)] += now() - stage->waits_since;
  stage->waits_since = now();
}

std::map<std::string, absl::Duration> Coordinator::Core::Waited(absl::Duration now) const {
  std::map<std::string, absl::Duration> waited = waited_;
  for (const std::set<QueueKey>* keys : {&queue_.ready(), &queue_.parked()}) {
    for (const QueueKey& key : *keys) {
      const Stage& stage = *ledger_.stages.at(key.stage_uid);
      waited[WaitKind(stage)] += now - stage.waits_since;
    }
  }
  return waited;
}

// Root checks end by time, too: an answer that does not come, a new question after a failure.
void Coordinator::Core::TickRoots() {
  if (!root_waiting_ || now() - root_look_ < kRootLook) return;
  root_look_ = now();
  root_waiting_ = false;
  workers_changed_ = schedule_ = true;
}

std::vector<NodeOffer> Coordinator::Core::Offers(const Job& job) const {
  std::vector<NodeOffer> offers;
  for (const auto& [id, worker] : workers_.all()) {
    if (worker->state == v1::NODE_STATE_LOST) continue;
    NodeOffer offer;
    offer.node_id = id;
    // Without a stream nothing could be started there before it reconnects.
    offer.usable = worker->state == v1::NODE_STATE_UNKNOWN || worker->session == 0
                       ? NodeOffer::Usable::kUnknown
                       : RootUsable(*worker, job.record.artifacts(), &offer.problem);
    for (const v1::Device& device : worker->record.devices()) {
      NodeOffer::Slot slot{device, ""};
      for (const v1::TakenSlot& taken : worker->record.taken()) {
        if (!SameDevice(taken.device(), device)) continue;
        const auto holder = ledger_.stages.find(StageUidOf(taken.attempt_id()));
        slot.holder = holder == ledger_.stages.end()
                          ? taken.attempt_id()
                          : absl::StrCat(holder->second->record.job_id(), "/", holder->second->record.name());
      }
      offer.slots.push_back(std::move(slot));
    }
    offers.push_back(std::move(offer));
  }
  return offers;
}

NodeOffer::Usable Coordinator::Core::RootUsable(const Worker& worker, const std::string& root,
                                                std::string* problem) const {
  const auto nonce = roots_.find(root);
  if (nonce != roots_.end() && nonce->second.nonce_file.empty() && !nonce->second.problem.empty()) {
    *problem = absl::StrCat("the service cannot write below ", root, ": ", nonce->second.problem);
    return NodeOffer::Usable::kRootFailed;
  }
  const auto it = worker.roots.find(root);
  if (it == worker.roots.end()) return NodeOffer::Usable::kRootUnchecked;
  switch (it->second.state) {
    case RootCheck::State::kSeen:
      return NodeOffer::Usable::kYes;
    case RootCheck::State::kFailed:
      *problem = absl::StrCat("does not see ", root, ": ", it->second.error);
      return NodeOffer::Usable::kRootFailed;
    default:
      if (now() - it->second.at <= kRootAnswerMax) return NodeOffer::Usable::kRootUnchecked;
      *problem = absl::StrCat("does not say whether it sees ", root);
      return NodeOffer::Usable::kRootFailed;
  }
}

void Coordinator::Core::AskRootsFor(const Job& job) {
  const std::string& root = job.record.artifacts();
  roots_.try_emplace(root);
  AskRoot(root);
}

void Coordinator::Core::AskRoot(const std::string& root) {
  RootNonce& nonce = roots_[root];
  if (nonce.nonce_file.empty()) {
    if (nonce.wanted && now() - nonce.asked < options_.root_recheck) return;
    nonce.wanted = true;
    nonce.asked = now();
    ledger_.Effect(WriteNonce{root});
    return;
  }
  for (const auto& [id, worker] : workers_.all()) {
    if (worker->state == v1::NODE_STATE_LIVE && worker->session != 0) AskWorker(worker.get(), root);
  }
}

void Coordinator::Core::AskWorker(Worker* worker, const std::string& root) {
  const RootNonce& nonce = roots_.at(root);
  const auto [it, first] = worker->roots.try_emplace(root);
  RootCheck& check = it->second;
  const bool again = check.state == RootCheck::State::kFailed && now() - check.at >= options_.root_recheck;
  if (!first && !again) return;
  if (again) schedule_ = true;
  check = {RootCheck::State::kAsked, now(), ""};
  v1::SessionResponse message;
  message.mutable_check_root()->set_root(root);
  message.mutable_check_root()->set_nonce_file(nonce.nonce_file);
  message.mutable_check_root()->set_nonce(nonce.nonce);
  workers_.Send(worker, std::move(message));
}

void Coordinator::Core::On(const NonceWritten& input) {
  const auto it = roots_.find(input.root);
  if (it == roots_.end() || !it->second.wanted || !it->second.nonce_file.empty()) return;
  RootNonce& nonce = it->second;
  workers_changed_ = schedule_ = true;
  if (!input.status.ok()) {
    nonce.problem = std::string(input.status.message().data(), input.status.message().size());
    return;
  }
  nonce.problem.clear();
  nonce.nonce_file = input.nonce_file;
  nonce.nonce = input.nonce;
  AskRoot(input.root);
}

void Coordinator::Core::OnRootChecked(Worker* worker, const v1::RootChecked& checked) {
  const auto it = worker->roots.find(checked.root());
  if (it == worker->roots.end()) return;
  const bool seen = checked.error().empty();
  it->second = {seen ? RootCheck::State::kSeen : RootCheck::State::kFailed, now(), checked.error()};
  if (!seen) {
    ledger_.Event(nullptr, nullptr, "worker.root",
                  absl::StrCat(worker->record.node_id(), " does not see ", checked.root(), ": ", checked.error()));
  }
  workers_changed_ = schedule_ = true;
}

}  // namespace vlm::coordinator
