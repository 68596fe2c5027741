#include "cli/job_watch.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace vlm::cli {
namespace {

constexpr absl::Duration kBackoffMin = absl::Milliseconds(100);
constexpr absl::Duration kBackoffMax = absl::Seconds(2);
// Heartbeats come every 5 s: after three missed ones the connection is taken for dead.
constexpr absl::Duration kSilenceMax = absl::Seconds(16);

}  // namespace

JobWatch::JobWatch(Service* service, std::string job_id)
    : service_(service), job_id_(std::move(job_id)), open_at_(service->clock()->Monotonic()), backoff_(kBackoffMin) {}

JobWatch::~JobWatch() = default;

absl::Status JobWatch::Open() {
  VLM_ASSIGN_OR_RETURN(rpc::Channel* const channel, service_->channel());
  v1::WatchEventsRequest request;
  request.set_job_id(job_id_);
  request.set_cursor(cursor_);
  inbox_ = std::make_shared<StreamInbox>();
  stream_ = channel->Open("/vlm.v1.JobService/WatchEvents", {}, inbox_);
  heard_at_ = service_->clock()->Monotonic();
  // The stream stays open on our side: closing it would read as leaving.
  if (!stream_->Send(request.SerializeAsString())) return absl::UnavailableError("the stream did not open");
  return absl::OkStatus();
}

WatchItem JobWatch::Broken(absl::Status status) {
  stream_.reset();
  inbox_.reset();
  WatchItem item;
  if (IsForGood(status)) {
    item.kind = WatchItem::Kind::kFailed;
    item.status = std::move(status);
    open_at_ = absl::InfiniteDuration();
    return item;
  }
  // The cursor is of another store (restored from a backup, say): from the first event again.
  if (absl::IsFailedPrecondition(status)) cursor_.clear();
  open_at_ = service_->clock()->Monotonic() + backoff_;
  backoff_ = std::min(2 * backoff_, kBackoffMax);
  if (away_) return item;
  away_ = true;
  item.kind = WatchItem::Kind::kAway;
  item.status = status.ok() ? absl::UnavailableError("the coordinator ended the stream") : std::move(status);
  return item;
}

WatchItem JobWatch::FromMessage(const std::string& message) {
  v1::WatchEventsResponse response;
  if (!response.ParseFromString(message)) {
    return Broken(absl::UnimplementedError("the coordinator's message does not parse: another version?"));
  }
  away_ = false;
  backoff_ = kBackoffMin;
  heard_at_ = service_->clock()->Monotonic();
  if (!response.cursor().empty()) cursor_ = response.cursor();
  WatchItem item;
  item.stage = response.stage();
  switch (response.kind_case()) {
    case v1::WatchEventsResponse::kEvent:
      item.kind = WatchItem::Kind::kEvent;
      item.event = std::move(*response.mutable_event());
      break;
    case v1::WatchEventsResponse::kProgress:
      item.kind = WatchItem::Kind::kProgress;
      item.progress = std::move(*response.mutable_progress());
      break;
    default:
      item.kind = WatchItem::Kind::kHeartbeat;
      break;
  }
  return item;
}

WatchItem JobWatch::Next(absl::Duration wait_max) {
  const absl::Duration now = service_->clock()->Monotonic();
  if (stream_ == nullptr) {
    if (open_at_ > now) {
      service_->interrupt()->WaitFor(std::min(wait_max, open_at_ - now));
      return {};
    }
    if (absl::Status opened = Open(); !opened.ok()) return Broken(std::move(opened));
  }
  std::optional<StreamInbox::Entry> entry = inbox_->Take(wait_max);
  if (!entry) {
    if (service_->clock()->Monotonic() - heard_at_ < kSilenceMax) return {};
    return Broken(absl::UnavailableError("the coordinator sends no heartbeat"));
  }
  if (entry->closed) return Broken(*std::move(entry->closed));
  return FromMessage(entry->message);
}

}  // namespace vlm::cli
