#include "worker/core/worker.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "worker/core/worker_core.h"

namespace vlm::worker {
namespace {

// After the last rank is reaped, how long a worker that ends waits for its results to be acknowledged. They are
// durable; what is not delivered now is reported by the next incarnation.
constexpr absl::Duration kDeliverGrace = absl::Seconds(2);

}  // namespace

std::string RankKey::ToString() const { return attempt_id + " rank " + std::to_string(rank); }

std::string RunFolder(const std::string& run_root, const RankKey& key) {
  std::string name = key.attempt_id + "-r" + std::to_string(key.rank);
  std::replace(name.begin(), name.end(), '/', '-');
  return run_root + "/" + name;
}

Worker::Core::Core(WorkerOptions options)
    : options_(std::move(options)), orphan_grace_(options_.orphan_grace), epoch_(options_.identity.epoch_seen()) {
  for (const v1::RankResult& result : options_.stored_results) {
    results_[{result.attempt_id(), result.fence(), result.rank()}].result = result;
  }
}

std::vector<Output> Worker::Core::Start(absl::Duration now) {
  now_ = heard_at_ = now;
  Out(OpenSession{});
  return std::exchange(outputs_, {});
}

std::vector<Output> Worker::Core::Handle(absl::Duration now, const Input& input) {
  VLM_CHECK(now >= now_, "time went back in the worker's core");
  now_ = now;
  if (finished_) return {};
  std::visit([this](const auto& what) { On(what); }, input);
  // Everything that time or the input has made due; harmless when nothing has.
  CheckOrphans();
  CheckRanks();
  CheckSession();
  SpawnWaiting();
  GoLiveWhenReconciled();
  SendReports();
  SendResults();
  CheckShutdown();
  return std::exchange(outputs_, {});
}

absl::Duration Worker::Core::NextWake() const {
  if (finished_) return absl::InfiniteDuration();
  absl::Duration wake = shutdown_until_;
  if (session_ == Session::kLive) {
    wake = std::min({wake, beat_at_ + options_.beat_interval, heard_at_ + options_.welcome_timeout});
    for (const auto& [key, waiting] : results_) wake = std::min(wake, waiting.sent_at + options_.result_resend);
  } else if (session_ == Session::kHello) {
    wake = std::min(wake, hello_at_ + options_.welcome_timeout);
  }
  for (const auto& [key, rank] : ranks_) {
    if (!rank.runs()) continue;
    if (rank.pid != 0) wake = std::min(wake, rank.kill_at);
    if (rank.ending != Ending::kNone) continue;
    wake = std::min(wake, heard_at_ + orphan_grace_);
    if (rank.pid != 0) {
      wake = std::min(wake, rank.alive_at + (rank.said_hello ? options_.frozen_after : options_.attach_grace));
    }
  }
  return wake;
}

void Worker::Core::On(const ShutdownRequested&) {
  if (shutting_down_) return;
  shutting_down_ = true;
  Out(Note{"told to end: stopping " + std::to_string(ranks_.size()) + " ranks"});
  for (auto it = ranks_.begin(); it != ranks_.end(); ++it) End(&it->second, Ending::kShutdown, options_.stop_grace);
}

void Worker::Core::CheckShutdown() {
  if (!shutting_down_ || !ranks_.empty()) return;
  if (shutdown_until_ == absl::InfiniteDuration()) shutdown_until_ = now_ + kDeliverGrace;
  const bool can_deliver = session_ == Session::kLive || session_ == Session::kReconciling;
  if (!results_.empty() && can_deliver && now_ < shutdown_until_) return;
  finished_ = true;
  Out(Finish{});
}

size_t Worker::Core::results_waiting() const {
  size_t reaped = 0;
  for (const auto& [key, rank] : ranks_) reaped += rank.reaped ? 1 : 0;
  return results_.size() + reaped;
}

std::vector<Worker::RankView> Worker::Core::Ranks() const {
  std::vector<RankView> views;
  for (const auto& [key, rank] : ranks_) {
    if (rank.reaped) continue;
    views.push_back({.key = key,
                     .pid = rank.pid,
                     .phase = rank.phase,
                     .attached = rank.attached,
                     .stopping = rank.ending != Ending::kNone,
                     .device_index = rank.device.index(),
                     .beat = rank.beat,
                     .job_id = rank.spec.job_id(),
                     .stage = rank.spec.stage()});
  }
  return views;
}

Worker::Worker(WorkerOptions options) : core_(std::make_unique<Core>(std::move(options))) {}
Worker::~Worker() = default;
std::vector<Output> Worker::Start(absl::Duration now) { return core_->Start(now); }
std::vector<Output> Worker::Handle(absl::Duration now, const Input& input) { return core_->Handle(now, input); }
absl::Duration Worker::NextWake() const { return core_->NextWake(); }
std::vector<Worker::RankView> Worker::Ranks() const { return core_->Ranks(); }
bool Worker::connected() const { return core_->connected(); }
uint64_t Worker::epoch_seen() const { return core_->epoch_seen(); }
size_t Worker::results_waiting() const { return core_->results_waiting(); }

}  // namespace vlm::worker
