// What trainers see of their worker: Attach, and DataService and CheckpointService passed on to the coordinator.
#ifndef VLM_WORKER_TRAINER_SERVICE_H_
#define VLM_WORKER_TRAINER_SERVICE_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/executor.h"
#include "rpc/server.h"
#include "vlm/v1/trainer.pb.h"
#include "worker/call_relay.h"
#include "worker/core/worker.h"

namespace vlm::worker {

// A call for a rank's own stage and fence is passed on with the worker's credential; any other is
// PERMISSION_DENIED, as is a method that is no trainer's business. All calls on `executor`'s thread.
class TrainerService {
 public:
  struct Callbacks {
    std::function<void(const RankKey&, v1::AttachRequest)> received;
    std::function<void(const RankKey&)> detached;
    std::function<void(const RankKey&, std::vector<v1::HeldShard>)> leased;
    std::function<void(const v1::HeldShard&)> released;
  };
  // `relay` must outlive the service.
  TrainerService(std::shared_ptr<Executor> executor, CallRelay* relay, Callbacks callbacks);
  ~TrainerService();
  TrainerService(const TrainerService&) = delete;
  TrainerService& operator=(const TrainerService&) = delete;

  // Handlers run on the transport's threads and post here.
  rpc::ServiceRegistry Registry();

  // A rank may attach and call with `token` from now on, until Forget.
  void Expect(const RankKey& rank, std::string token, std::string stage_uid, bool pool);
  void Forget(const RankKey& rank);
  void Send(const RankKey& rank, const v1::AttachResponse& message);  // dropped when it is not attached

 private:
  struct Rank {
    std::string token;
    std::string stage_uid;
    bool pool = false;
    std::shared_ptr<rpc::Stream> stream;  // of the newest Attach
    uint64_t attach = 0;                  // its number
  };
  class AttachReceiver;
  void OnAttach(const rpc::Metadata& metadata, std::shared_ptr<rpc::Stream> stream,
                const std::shared_ptr<AttachReceiver>& receiver);
  void OnAttachMessage(AttachReceiver* receiver, const std::string& bytes);
  void OnAttachClosed(AttachReceiver* receiver);
  absl::StatusOr<RankKey> Identify(const rpc::Metadata& metadata) const;
  template <typename Request, typename Response>
  void AddCall(const std::string& method, rpc::ServiceRegistry* registry);
  static absl::Duration AwayLimitOf(const rpc::Metadata& metadata);
  template <typename Request>
  absl::Status Authorize(const RankKey& rank, const Request& request) const;

  const std::shared_ptr<Executor> executor_;
  CallRelay* const relay_;
  const Callbacks callbacks_;
  uint64_t attaches_ = 0;
  std::map<RankKey, Rank> ranks_;
  std::shared_ptr<TrainerService*> self_;  // what posted functions hold; null once destroyed
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_TRAINER_SERVICE_H_
