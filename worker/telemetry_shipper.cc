#include "worker/telemetry_shipper.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file_system.h"

namespace vlm::worker {
namespace {

using Json = nlohmann::json;

constexpr char kMethod[] = "/vlm.v1.WorkerService/ShipTelemetry";
constexpr char kAbout[] = "/about.json";
// Room for the fields around the data of one message.
constexpr size_t kHeadBytes = 1024;
constexpr int kPointsPerBatch = 500;

void SetLabels(const RankLabels& labels, v1::LogChunk* chunk) {
  chunk->set_job_id(labels.job_id);
  chunk->set_stage(labels.stage);
  chunk->set_fence(labels.fence);
  chunk->set_rank(labels.rank);
}

std::string FolderName(const RankKey& key) {
  std::string name = key.attempt_id + "-r" + std::to_string(key.rank);
  std::replace(name.begin(), name.end(), '/', '-');
  return name;
}

// What DoBegin writes, and nothing else: of another process or another version.
bool IsAbout(const Json& about) {
  return about.is_object() && about.contains("job_id") && about["job_id"].is_string() && about.contains("stage") &&
         about["stage"].is_string() && about.contains("fence") && about["fence"].is_number_unsigned() &&
         about.contains("rank") && about["rank"].is_number_unsigned() && about["rank"].get<uint64_t>() <= INT32_MAX;
}

}  // namespace

TelemetryShipper::TelemetryShipper(Parts parts, std::unique_ptr<Executor> executor)
    : parts_(std::move(parts)),
      executor_(std::make_shared<StoppableExecutor>(executor != nullptr ? std::move(executor)
                                                                        : NewThreadExecutor("telemetry"))) {
  stream_ = std::make_unique<PersistentStream>(
      parts_.channel, executor_, kMethod, parts_.jitter,
      PersistentStream::Callbacks{.opened = [this] { OnOpened(); },
                                  .received = [this](const std::string& bytes) { OnResponse(bytes); },
                                  .lost = [this](const std::string&) { credit_ = 0; }});
}

TelemetryShipper::~TelemetryShipper() {
  executor_->Stop();  // now nothing else touches what is below
}

void TelemetryShipper::Start() {
  executor_->Post([this] { DoStart(); });
}

void TelemetryShipper::SetCredit(uint64_t bytes) {
  executor_->Post([this, bytes] {
    // The stream may have opened before Welcome came.
    if (first_credit_ == 0) credit_ = std::min(credit_ + std::min(bytes, kCreditBytesMax), kCreditBytesMax);
    first_credit_ = std::min(bytes, kCreditBytesMax);
    Pump();
  });
}

void TelemetryShipper::Begin(const RankKey& key, const RankLabels& labels) {
  executor_->Post([this, key, labels] { DoBegin(key, labels); });
}

void TelemetryShipper::Output(const RankKey& key, std::string bytes) {
  if (pending_bytes_.load() + bytes.size() > kPendingBytesMax) {
    overflow_bytes_ += bytes.size();
    return;
  }
  pending_bytes_ += bytes.size();
  executor_->Post([this, key, bytes = std::move(bytes)] {
    pending_bytes_ -= bytes.size();
    DoOutput(key, bytes);
  });
}

void TelemetryShipper::Points(const RankKey& key, v1::MetricBatch batch) {
  executor_->Post([this, key, batch = std::move(batch)]() mutable { DoPoints(key, std::move(batch)); });
}

void TelemetryShipper::End(const RankKey& key) {
  executor_->Post([this, key] {
    const auto it = ranks_.find(FolderName(key));
    if (it == ranks_.end()) return;
    it->second.ended = true;
    it->second.ended_order = ++ended_;
    DropFinished();
    Pump();
  });
}

std::string TelemetryShipper::FolderOf(const RankKey& key) const { return parts_.log_root + "/" + FolderName(key); }

void TelemetryShipper::DoStart() {
  const absl::StatusOr<std::vector<std::string>> names = PosixFileSystem()->List(parts_.log_root);
  for (const std::string& name : names.ok() ? *names : std::vector<std::string>()) {
    const std::string folder = parts_.log_root + "/" + name;
    const absl::StatusOr<std::string> text = ReadFile(PosixFileSystem(), folder + kAbout, 64 << 10);
    const Json about = text.ok() ? Json::parse(*text, nullptr, false) : Json();
    absl::StatusOr<std::unique_ptr<RankLog>> log = RankLog::Create(folder);
    if (!IsAbout(about) || !log.ok()) {
      parts_.note("leaving a log that cannot be read: " + folder);
      continue;
    }
    Rank& rank = MakeRank(name);
    rank.labels = {.job_id = about["job_id"].get<std::string>(),
                   .stage = about["stage"].get<std::string>(),
                   .fence = about["fence"].get<uint64_t>(),
                   .rank = about["rank"].get<int32_t>()};
    rank.folder = folder;
    rank.log = *std::move(log);
    rank.ended = true;
    rank.ended_order = ++ended_;
  }
  DropFinished();
  stream_->Open();
}

TelemetryShipper::Rank& TelemetryShipper::MakeRank(const std::string& folder_name) {
  const auto [entry, added] = ranks_.try_emplace(folder_name);
  if (added) entry->second.number = ++numbers_;
  return entry->second;
}

void TelemetryShipper::DoBegin(const RankKey& key, const RankLabels& labels) {
  Rank& rank = MakeRank(FolderName(key));
  rank.labels = labels;
  rank.folder = FolderOf(key);
  rank.ended = false;
  if (rank.log != nullptr) return;  // a pool's rank started again: its log goes on
  absl::StatusOr<std::unique_ptr<RankLog>> log = RankLog::Create(rank.folder);
  const Json about = {
      {"job_id", labels.job_id}, {"stage", labels.stage}, {"fence", labels.fence}, {"rank", labels.rank}};
  absl::Status status = log.status();
  if (status.ok()) status = WriteFileDurably(PosixFileSystem(), rank.folder + kAbout, about.dump());
  if (!status.ok()) {
    parts_.note("no log for " + key.ToString() + ": " + status.ToString());
    return;
  }
  rank.log = *std::move(log);
}

void TelemetryShipper::DoOutput(const RankKey& key, const std::string& bytes) {
  const auto it = ranks_.find(FolderName(key));
  if (it == ranks_.end() || it->second.log == nullptr) return;
  if (const uint64_t lost = overflow_bytes_.exchange(0); lost > 0) {
    const std::string mark = "\n[worker: " + std::to_string(lost) + " bytes of output were dropped]\n";
    (void)it->second.log->Append(mark);
    parts_.metrics->LogShipped(0, lost);
  }
  if (const absl::Status written = it->second.log->Append(bytes); !written.ok()) {
    parts_.note("output of " + key.ToString() + " is lost: " + written.ToString());
  }
  Pump();
}

void TelemetryShipper::DoPoints(const RankKey& key, v1::MetricBatch batch) {
  const auto it = ranks_.find(FolderName(key));
  if (it == ranks_.end()) return;
  it->second.points_dropped += batch.dropped();
  for (v1::MetricPoint& point : *batch.mutable_points()) {
    parts_.metrics->RankPoint(it->second.labels, point);
    it->second.points.push_back(std::move(point));
    if (++points_ > kPointsMax) Thin();
  }
  Pump();
}

void TelemetryShipper::Thin() {
  Rank* fullest = nullptr;
  const auto unsent = [](const Rank& rank) { return rank.points.size() - rank.points_sent; };
  for (auto& [name, rank] : ranks_) {
    if (fullest == nullptr || unsent(rank) > unsent(*fullest)) fullest = &rank;
  }
  std::deque<v1::MetricPoint> kept;
  for (size_t i = 0; i < fullest->points.size(); ++i) {
    if (i < fullest->points_sent || (i - fullest->points_sent) % 2 == 1) kept.push_back(std::move(fullest->points[i]));
  }
  const size_t dropped = fullest->points.size() - kept.size();
  fullest->points = std::move(kept);
  fullest->points_dropped += dropped;
  points_ -= dropped;
}

void TelemetryShipper::OnOpened() {
  credit_ = first_credit_;
  under_way_.clear();
  settled_bytes_ = 0;
  for (auto& [name, rank] : ranks_) {
    rank.sent = rank.acknowledged;
    rank.points_sent = 0;
    rank.points_dropped += std::exchange(rank.dropped_sent, 0);
  }
  Pump();
}

void TelemetryShipper::OnResponse(const std::string& bytes) {
  v1::ShipTelemetryResponse response;
  if (!response.ParseFromString(bytes)) {
    stream_->Restart();
    return;
  }
  stream_->Confirm();
  const uint64_t credit_bytes = std::min(response.credit_bytes(), kCreditBytesMax);
  credit_ = std::min(credit_ + credit_bytes, kCreditBytesMax);
  SettleUnderWay(credit_bytes);
  for (const v1::LogAcknowledged& log : response.logs()) {
    for (auto& [name, rank] : ranks_) {
      if (rank.labels.job_id != log.job_id() || rank.labels.stage != log.stage() || rank.labels.fence != log.fence() ||
          rank.labels.rank != log.rank()) {
        continue;
      }
      // Bytes that were never printed are not stored either: those to come go the usual way.
      const uint64_t printed = rank.log == nullptr ? 0 : rank.log->size();
      rank.acknowledged = std::max(rank.acknowledged, std::min(log.offset(), printed));
      rank.sent = std::max(rank.sent, rank.acknowledged);
    }
  }
  DropFinished();
  Pump();
}

// Credit is granted for what has been handled, in the order in which it was sent.
void TelemetryShipper::SettleUnderWay(uint64_t credit_bytes) {
  settled_bytes_ += credit_bytes;
  while (!under_way_.empty() && under_way_.front().bytes <= settled_bytes_) {
    const UnderWay message = std::move(under_way_.front());
    under_way_.pop_front();
    settled_bytes_ -= message.bytes;
    const auto entry = ranks_.find(message.folder_name);
    if (entry == ranks_.end() || entry->second.number != message.number) continue;  // forgotten meanwhile
    Rank& rank = entry->second;
    rank.points.erase(rank.points.begin(), rank.points.begin() + static_cast<std::ptrdiff_t>(message.points));
    rank.points_sent -= message.points;
    rank.dropped_sent -= message.dropped;
    points_ -= message.points;
    if (message.points > 0) parts_.metrics->PointsShipped(message.points, message.dropped);
  }
  if (under_way_.empty()) settled_bytes_ = 0;  // credit that nothing was sent for: it says nothing of what comes
}

void TelemetryShipper::Pump() {
  // Round by round, so that one rank's flood does not keep the others' words back.
  bool sent = true;
  while (sent) {
    sent = false;
    for (auto& [name, rank] : ranks_) {
      if (SendPoints(name, &rank)) sent = true;
      if (SendLog(name, &rank)) sent = true;
    }
  }
}

bool TelemetryShipper::SendRequest(const v1::ShipTelemetryRequest& request, UnderWay message) {
  std::string bytes = request.SerializeAsString();
  if (bytes.size() > credit_) return false;
  message.bytes = bytes.size();
  if (!stream_->Send(std::move(bytes))) return false;
  credit_ -= message.bytes;
  under_way_.push_back(std::move(message));
  return true;
}

bool TelemetryShipper::SendPoints(const std::string& folder_name, Rank* rank) {
  if (rank->points_sent == rank->points.size()) return false;
  v1::ShipTelemetryRequest request;
  request.set_node_id(parts_.node_id);
  v1::MetricBatch* batch = request.mutable_metrics();
  batch->set_job_id(rank->labels.job_id);
  batch->set_stage(rank->labels.stage);
  batch->set_fence(rank->labels.fence);
  batch->set_dropped(rank->points_dropped);
  size_t bytes = kHeadBytes;
  for (size_t i = rank->points_sent; i < rank->points.size(); ++i) {
    bytes += rank->points[i].ByteSizeLong() + 8;
    if (bytes > kMessageBytesMax || batch->points_size() == kPointsPerBatch) break;
    *batch->add_points() = rank->points[i];
  }
  const auto sent = static_cast<size_t>(batch->points_size());
  if (!SendRequest(
          request,
          {.folder_name = folder_name, .number = rank->number, .points = sent, .dropped = rank->points_dropped})) {
    return false;
  }
  rank->points_sent += sent;
  rank->dropped_sent += std::exchange(rank->points_dropped, 0);
  return true;
}

bool TelemetryShipper::SendLog(const std::string& folder_name, Rank* rank) {
  if (rank->log == nullptr || rank->sent >= rank->log->size() || credit_ <= kHeadBytes) return false;
  const size_t bytes_max = std::min<uint64_t>(kMessageBytesMax - kHeadBytes, credit_ - kHeadBytes);
  const absl::StatusOr<RankLog::Chunk> chunk = rank->log->Read(rank->sent, bytes_max);
  if (!chunk.ok()) {
    parts_.note("a log cannot be read: " + chunk.status().ToString());
    rank->sent = rank->log->size();
    return false;
  }
  v1::ShipTelemetryRequest request;
  request.set_node_id(parts_.node_id);
  v1::LogChunk* log = request.mutable_log();
  SetLabels(rank->labels, log);
  log->set_offset(chunk->offset);
  log->set_data(chunk->data);
  log->set_dropped_bytes(chunk->dropped_bytes);
  if (!SendRequest(request, {.folder_name = folder_name, .number = rank->number})) return false;
  rank->sent = chunk->offset + chunk->data.size();
  parts_.metrics->LogShipped(chunk->data.size(), chunk->dropped_bytes);
  return true;
}

void TelemetryShipper::DropFinished() {
  size_t waiting = 0;
  for (auto it = ranks_.begin(); it != ranks_.end();) {
    Rank& rank = it->second;
    const bool done =
        rank.ended && rank.points.empty() && (rank.log == nullptr || rank.acknowledged >= rank.log->size());
    if (!done) {
      waiting += rank.ended ? 1 : 0;
      ++it;
      continue;
    }
    Forget(it++);
  }
  for (; waiting > kEndedMax; --waiting) {
    auto oldest = ranks_.end();
    for (auto it = ranks_.begin(); it != ranks_.end(); ++it) {
      const bool older = oldest == ranks_.end() || it->second.ended_order < oldest->second.ended_order;
      if (it->second.ended && older) oldest = it;
    }
    parts_.note("dropping the log of an ended rank that nobody took: " + oldest->first);
    Forget(oldest);
  }
}

void TelemetryShipper::Forget(std::map<std::string, Rank>::iterator rank) {
  Rank& gone = rank->second;
  const uint64_t lost = gone.points.size() + gone.points_dropped + gone.dropped_sent;
  if (lost > 0) parts_.metrics->PointsShipped(0, lost);
  points_ -= gone.points.size();
  gone.log.reset();
  (void)RemoveTree(PosixFileSystem(), gone.folder);
  ranks_.erase(rank);
}

}  // namespace vlm::worker
