#include "cli/stream_inbox.h"

#include <utility>

namespace vlm::cli {

void StreamInbox::OnMessage(std::string message) {
  MutexLock lock(&mutex_);
  if (overflowed_) return;
  if (entries_.size() >= kMessagesMax) {
    overflowed_ = true;
    entries_.push_back({"", absl::UnavailableError("more messages came than were read")});
  } else {
    entries_.push_back({std::move(message), std::nullopt});
  }
  changed_.NotifyAll();
}

void StreamInbox::OnClosed(absl::Status status) {
  MutexLock lock(&mutex_);
  if (overflowed_) return;
  entries_.push_back({"", std::move(status)});
  changed_.NotifyAll();
}

std::optional<StreamInbox::Entry> StreamInbox::Take(absl::Duration wait_max) {
  MutexLock lock(&mutex_);
  if (entries_.empty()) changed_.WaitFor(&mutex_, wait_max);
  if (entries_.empty()) return std::nullopt;
  Entry entry = std::move(entries_.front());
  entries_.pop_front();
  return entry;
}

bool IsForGood(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      return false;
  }
}

}  // namespace vlm::cli
