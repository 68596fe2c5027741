// Messages of one stream, carried from the transport's thread to ours.
#ifndef VLM_CLI_STREAM_INBOX_H_
#define VLM_CLI_STREAM_INBOX_H_

#include <deque>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "rpc/channel.h"

namespace vlm::cli {

// Thread-safe.
class StreamInbox final : public rpc::StreamReceiver {
 public:
  // Of messages not yet taken. The one above it ends the stream for its reader with UNAVAILABLE: it is opened again,
  // from where the reader stands, so nothing is lost.
  static constexpr size_t kMessagesMax = 4096;

  struct Entry {
    std::string message;
    std::optional<absl::Status> closed;  // the last entry
  };

  void OnMessage(std::string message) override;
  void OnClosed(absl::Status status) override;

  // Waits up to `wait_max`; nothing when nothing came.
  std::optional<Entry> Take(absl::Duration wait_max);

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  bool overflowed_ ABSL_GUARDED_BY(mutex_) = false;
};

// Whether asking again cannot help: no such thing, no right to it, not understood.
bool IsForGood(const absl::Status& status);

}  // namespace vlm::cli

#endif  // VLM_CLI_STREAM_INBOX_H_
