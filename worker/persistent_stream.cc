#include "worker/persistent_stream.h"

#include <utility>

namespace vlm::worker {
namespace {

constexpr absl::Duration kReopenMin = absl::Milliseconds(50);
constexpr absl::Duration kReopenMax = absl::Milliseconds(500);

}  // namespace

// Brings what arrives on gRPC's threads to the executor.
class PersistentStream::Receiver final : public rpc::StreamReceiver {
 public:
  Receiver(std::shared_ptr<Executor> executor, std::shared_ptr<PersistentStream*> client, uint64_t generation)
      : executor_(std::move(executor)), client_(std::move(client)), generation_(generation) {}

  void OnMessage(std::string bytes) override {
    executor_->Post([client = client_, generation = generation_, bytes = std::move(bytes)] {
      if (*client == nullptr || (*client)->generation_ != generation) return;
      (*client)->callbacks_.received(bytes);
    });
  }

  void OnClosed(absl::Status status) override {
    executor_->Post([client = client_, generation = generation_, status = std::move(status)] {
      if (*client != nullptr) (*client)->OnClosed(generation, status);
    });
  }

 private:
  const std::shared_ptr<Executor> executor_;
  const std::shared_ptr<PersistentStream*> client_;  // read on the executor only
  const uint64_t generation_;
};

PersistentStream::PersistentStream(rpc::Channel* channel, std::shared_ptr<Executor> executor, std::string method,
                                   RngKey jitter, Callbacks callbacks)
    : channel_(channel),
      executor_(std::move(executor)),
      method_(std::move(method)),
      callbacks_(std::move(callbacks)),
      backoff_(kReopenMin, kReopenMax, jitter),
      self_(std::make_shared<PersistentStream*>(this)) {}

PersistentStream::~PersistentStream() { *self_ = nullptr; }

void PersistentStream::Open() {
  ++generation_;
  stream_ = channel_->Open(method_, {}, std::make_shared<Receiver>(executor_, self_, generation_));
  callbacks_.opened();
}

bool PersistentStream::Send(std::string message) {
  if (stream_ == nullptr) return false;
  if (stream_->Send(std::move(message))) return true;
  OnClosed(generation_, absl::UnavailableError("the stream is broken, or the coordinator does not read it"));
  return false;
}

void PersistentStream::Restart() {
  ++generation_;
  stream_.reset();
  OpenLater();
}

void PersistentStream::OnClosed(uint64_t generation, const absl::Status& status) {
  if (generation != generation_) return;
  ++generation_;
  stream_.reset();
  OpenLater();
  callbacks_.lost(status.ok() ? "the coordinator ended it" : status.ToString());
}

void PersistentStream::OpenLater() {
  executor_->PostAfter(backoff_.Next(), [self = self_, generation = generation_] {
    if (*self != nullptr && (*self)->generation_ == generation) (*self)->Open();
  });
}

}  // namespace vlm::worker
