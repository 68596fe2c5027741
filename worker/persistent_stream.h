// Keeps one stream to the coordinator open, again and again.
#ifndef VLM_WORKER_PERSISTENT_STREAM_H_
#define VLM_WORKER_PERSISTENT_STREAM_H_

#include <functional>
#include <memory>
#include <string>

#include "base/executor.h"
#include "base/random.h"
#include "rpc/channel.h"
#include "rpc/retry.h"

namespace vlm::worker {

// All calls and callbacks on `executor`'s thread.
class PersistentStream {
 public:
  struct Callbacks {
    std::function<void()> opened;
    std::function<void(std::string bytes)> received;
    std::function<void(std::string reason)> lost;  // `opened` follows after a backoff of 50 to 500 ms
  };
  // `channel` must outlive the stream.
  PersistentStream(rpc::Channel* channel, std::shared_ptr<Executor> executor, std::string method, RngKey jitter,
                   Callbacks callbacks);
  ~PersistentStream();
  PersistentStream(const PersistentStream&) = delete;
  PersistentStream& operator=(const PersistentStream&) = delete;

  void Open();
  // False, and the message is dropped, while there is no stream. A peer that does not read ends it.
  bool Send(std::string message);
  // Ends the stream without `lost` and opens another after the backoff.
  void Restart();
  // The stream is good: the next failure backs off from the start again.
  void Confirm() { backoff_.Reset(); }

 private:
  class Receiver;
  void OnClosed(uint64_t generation, const absl::Status& status);
  void OpenLater();

  rpc::Channel* const channel_;
  const std::shared_ptr<Executor> executor_;
  const std::string method_;
  const Callbacks callbacks_;
  rpc::Backoff backoff_;
  uint64_t generation_ = 0;  // of the stream; callbacks of an older one are ignored
  std::unique_ptr<rpc::Stream> stream_;
  std::shared_ptr<PersistentStream*> self_;  // what posted functions hold; null once destroyed
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_PERSISTENT_STREAM_H_
