// Where the ranks of one waiting stage go: a pure decision, and the order in which stages are asked.
#ifndef VLM_COORDINATOR_CORE_SCHEDULER_H_
#define VLM_COORDINATOR_CORE_SCHEDULER_H_

#include <compare>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "vlm/v1/worker.pb.h"

namespace vlm::coordinator {

// One LIVE or reattaching worker, as a stage sees it.
struct NodeOffer {
  struct Slot {
    v1::Device device;
    std::string holder;  // empty: free; else who has it, for people
  };
  enum class Usable { kYes, kRootUnchecked, kRootFailed, kUnknown };
  std::string node_id;
  Usable usable = Usable::kYes;
  std::string problem;  // of kRootFailed
  std::vector<Slot> slots;
};

struct PlacementWish {
  int32_t ranks_min = 1;
  int32_t ranks_max = 1;
  v1::DeviceKind device = v1::DEVICE_KIND_UNSPECIFIED;  // UNSPECIFIED: CUDA where any worker has it, else CPU
};

struct PlacedRank {
  std::string node_id;
  v1::Device device;
};

struct PlacementDecision {
  std::vector<PlacedRank> ranks;  // empty: wait
  // Waiting, but when what runs now ends there will be room: later stages must not take what is free.
  bool reserve = false;
  std::string kind;    // of the wait: "capacity", "root", "workers"; empty when placed
  std::string reason;  // what is missing, how much, who holds it; or where the ranks go
};

// As many ranks as free slots allow, from min to max. Workers with more free slots come first (ranks of a gang
// stay close), then by node id; slots of a worker in their order.
PlacementDecision DecidePlacement(const PlacementWish& wish, const std::vector<NodeOffer>& offers);

// QUEUED stages in the order in which they are asked.
struct QueueKey {
  uint64_t sequence = 0;  // of the job
  int32_t stage = 0;      // in the job
  std::string stage_uid;
  friend auto operator<=>(const QueueKey&, const QueueKey&) = default;
};

// A stage that no set of known workers could hold is parked: it neither blocks the others nor is looked at again
// before the workers change.
class StageQueue {
 public:
  void Add(QueueKey key) { ready_.insert(std::move(key)); }
  void Remove(const QueueKey& key) {
    ready_.erase(key);
    parked_.erase(key);
  }
  void Park(const QueueKey& key) {
    ready_.erase(key);
    parked_.insert(key);
  }
  void Unpark() { ready_.merge(parked_); }
  const std::set<QueueKey>& ready() const { return ready_; }
  const std::set<QueueKey>& parked() const { return parked_; }
  size_t size() const { return ready_.size() + parked_.size(); }

 private:
  std::set<QueueKey> ready_;
  std::set<QueueKey> parked_;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_SCHEDULER_H_
