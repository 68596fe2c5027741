// The session with the coordinator: Hello and Welcome, beats, reports until acknowledged, results until accepted.
#include <algorithm>
#include <set>
#include <utility>

#include "worker/core/worker_core.h"

namespace vlm::worker {
namespace {

// Hello stays well below the session's 256 KiB; further results follow as messages of their own.
constexpr int kResultsInHelloMax = 32;

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

}  // namespace

void Worker::Core::On(const SessionOpened&) {
  session_ = Session::kHello;
  hello_at_ = now_;
  handled_ = 0;
  reports_.Rewind();
  for (auto& [key, waiting] : results_) waiting.sent_at = -absl::InfiniteDuration();
  v1::SessionRequest message;
  *message.mutable_hello() = MakeHello();
  Send(std::move(message));
}

v1::Hello Worker::Core::MakeHello() {
  v1::Hello hello = options_.identity;
  hello.set_epoch_seen(epoch_);
  for (const auto& [key, rank] : ranks_) {
    v1::HeldRank* held = hello.add_held();
    held->set_attempt_id(key.attempt_id);
    held->set_fence(key.fence);
    held->set_rank(key.rank);
    held->set_pid(rank.pid);
    held->set_phase(rank.phase);
    if (rank.endpoint) *held->mutable_endpoint() = *rank.endpoint;
    for (const v1::HeldShard& shard : rank.shards) *hello.add_shards() = shard;
  }
  for (auto& [key, waiting] : results_) {
    if (hello.unacknowledged_size() == kResultsInHelloMax) break;
    waiting.sent_at = now_;
    v1::RankResult* result = hello.add_unacknowledged();
    *result = waiting.result;
    result->set_sent_boot_ns(absl::ToInt64Nanoseconds(now_));
  }
  return hello;
}

void Worker::Core::On(const SessionLost& lost) {
  // Once for each kind of reason: while the coordinator is away, or refuses, this comes twice a second.
  const std::string kind = lost.reason.substr(0, lost.reason.find(':'));
  if (loss_noted_ != kind) Out(Note{"no session with the coordinator: " + lost.reason});
  loss_noted_ = kind;
  session_ = Session::kDown;
}

void Worker::Core::DropSession(const std::string& reason) {
  session_ = Session::kDown;
  Out(CloseSession{reason});
}

void Worker::Core::On(const FromCoordinator& input) {
  const v1::SessionResponse& message = input.message;
  if (session_ == Session::kDown) return;  // late bytes of a connection given up
  if (message.coordinator_epoch() < epoch_) {
    DropSession("the coordinator's epoch " + std::to_string(message.coordinator_epoch()) +
                " is below one already met: " + std::to_string(epoch_));
    return;
  }
  if (message.coordinator_epoch() > epoch_) {
    epoch_ = message.coordinator_epoch();
    Out(StoreEpoch{epoch_});
  }
  if (message.sequence() <= handled_) return;  // a repeat
  if (session_ == Session::kHello && !message.has_welcome()) {
    DropSession("the coordinator's first message was not Welcome");
    return;
  }
  handled_ = message.sequence();
  heard_at_ = now_;
  reports_.Acknowledge(message.acknowledged());
  switch (message.kind_case()) {
    case v1::SessionResponse::kWelcome:
      OnWelcome(message.welcome());
      break;
    case v1::SessionResponse::kAssign:
      OnAssign(message.assign());
      break;
    case v1::SessionResponse::kRendezvous:
      OnRendezvous(message.rendezvous());
      break;
    case v1::SessionResponse::kStop:
      OnStop(message.stop());
      break;
    case v1::SessionResponse::kCheckRoot:
      OnCheckRoot(message.check_root());
      break;
    case v1::SessionResponse::kResult:
      OnResultAcknowledged(message.result());
      break;
    case v1::SessionResponse::kBeat:
      break;
    case v1::SessionResponse::KIND_NOT_SET:
      break;  // of a newer coordinator; nothing this protocol needs
  }
}

void Worker::Core::OnWelcome(const v1::Welcome& welcome) {
  if (session_ != Session::kHello) return;
  if (welcome.has_orphan_grace()) orphan_grace_ = FromProto(welcome.orphan_grace());
  std::set<std::pair<std::string, uint64_t>> allowed;
  for (const v1::AllowedAttempt& attempt : welcome.allowed()) allowed.emplace(attempt.attempt_id(), attempt.fence());
  session_ = Session::kReconciling;
  loss_noted_.clear();
  for (auto it = ranks_.begin(); it != ranks_.end(); ++it) {
    HeldRank& rank = it->second;
    if (allowed.contains({rank.key.attempt_id, rank.key.fence})) continue;
    Out(Note{"killing " + rank.key.ToString() + ": its attempt is not allowed any more"});
    End(&rank, Ending::kSuperseded, absl::ZeroDuration());
  }
}

void Worker::Core::GoLiveWhenReconciled() {
  if (session_ != Session::kReconciling) return;
  for (const auto& [key, rank] : ranks_) {
    if (rank.ending == Ending::kSuperseded && rank.runs()) return;
  }
  session_ = Session::kLive;
  heard_at_ = now_;
  SendBeat();
}

void Worker::Core::OnResultAcknowledged(const v1::ResultAcknowledged& acknowledged) {
  for (auto it = results_.begin(); it != results_.end();) {
    if (it->first.attempt_id == acknowledged.attempt_id() && it->first.rank == acknowledged.rank()) {
      Out(RemoveResult{it->first});
      it = results_.erase(it);
    } else {
      ++it;
    }
  }
}

void Worker::Core::OnCheckRoot(const v1::CheckRoot& check) { Out(ReadNonce{check}); }

void Worker::Core::On(const RootRead& read) {
  v1::SessionRequest message;
  message.mutable_root_checked()->set_root(read.root);
  message.mutable_root_checked()->set_error(read.error);
  reports_.Add("root " + read.root, std::move(message));
}

void Worker::Core::CheckSession() {
  if (session_ == Session::kHello && now_ - hello_at_ >= options_.welcome_timeout) {
    DropSession("no Welcome within " + absl::FormatDuration(options_.welcome_timeout));
  } else if (session_ == Session::kLive && now_ - heard_at_ >= options_.welcome_timeout) {
    DropSession("the coordinator is silent for " + absl::FormatDuration(options_.welcome_timeout));
  } else if (session_ == Session::kLive && now_ - beat_at_ >= options_.beat_interval) {
    SendBeat();
  }
}

void Worker::Core::CheckOrphans() {
  if (now_ - heard_at_ < orphan_grace_) return;
  for (auto it = ranks_.begin(); it != ranks_.end(); ++it) {
    HeldRank& rank = it->second;
    if (rank.reaped || rank.ending != Ending::kNone) continue;
    Out(Note{"stopping " + rank.key.ToString() + ": no coordinator for " + absl::FormatDuration(orphan_grace_)});
    End(&rank, Ending::kOrphaned, options_.stop_grace);
  }
}

void Worker::Core::SendBeat() {
  beat_at_ = now_;
  v1::SessionRequest message;
  v1::Beat* beat = message.mutable_beat();
  beat->set_disk_free_bytes(disk_free_bytes_);
  for (const auto& [key, rank] : ranks_) {
    if (rank.reaped) continue;  // its result says the rest
    v1::RankBeat* of_rank = beat->add_ranks();
    *of_rank = rank.beat;
    of_rank->set_attempt_id(key.attempt_id);
    of_rank->set_rank(key.rank);
    of_rank->set_phase(rank.phase);
    for (const v1::HeldShard& shard : rank.shards) *beat->add_shards() = shard;
  }
  Send(std::move(message));
}

void Worker::Core::SendReports() {
  if (session_ != Session::kLive) return;
  for (v1::SessionRequest& message : reports_.TakeUnsent(&sequence_)) {
    message.set_acknowledged(handled_);
    Out(SendToCoordinator{std::move(message)});
  }
}

void Worker::Core::SendResults() {
  if (session_ != Session::kLive) return;
  for (auto& [key, waiting] : results_) {
    if (now_ - waiting.sent_at < options_.result_resend) continue;
    waiting.sent_at = now_;
    v1::SessionRequest message;
    *message.mutable_result() = waiting.result;
    message.mutable_result()->set_sent_boot_ns(absl::ToInt64Nanoseconds(now_));
    Send(std::move(message));
  }
}

void Worker::Core::Send(v1::SessionRequest message) {
  message.set_sequence(++sequence_);
  message.set_acknowledged(handled_);
  Out(SendToCoordinator{std::move(message)});
}

}  // namespace vlm::worker
