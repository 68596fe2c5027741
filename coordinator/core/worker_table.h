// The workers: their state, their sessions, their leases and which of their slots are taken.
#ifndef VLM_COORDINATOR_CORE_WORKER_TABLE_H_
#define VLM_COORDINATOR_CORE_WORKER_TABLE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/core/ledger.h"
#include "coordinator/core/options.h"
#include "vlm/v1/record.pb.h"

namespace vlm::coordinator {

// Whether a worker sees an artifact root, proved by a nonce file.
struct RootCheck {
  enum class State { kUnknown, kAsked, kSeen, kFailed };
  State state = State::kUnknown;
  absl::Duration at;  // of the state
  std::string error;
};

struct Worker {
  v1::NodeRecord record;
  v1::NodeState state = v1::NODE_STATE_UNKNOWN;
  uint64_t session = 0;  // 0: no stream
  absl::Duration heard;  // newest message
  absl::Time heard_wall;
  uint64_t disk_free_bytes = 0;
  std::map<std::string, RootCheck> roots;
  // Of the session:
  uint64_t sent = 0;                                          // sequence of the newest response
  uint64_t handled = 0;                                       // sequence of the newest request
  std::deque<std::pair<uint64_t, absl::Duration>> in_flight;  // responses not yet acknowledged, bounded
  absl::Duration round_trip;                                  // the least seen, an upper bound
};

class WorkerTable {
 public:
  WorkerTable(const CoordinatorOptions* options, Ledger* ledger) : options_(options), ledger_(ledger) {}

  void Restore(v1::NodeRecord record);
  // A new process of ours, or a stall of ours: nobody is LOST before `now` + the window.
  void OpenWindow(absl::Duration now);
  absl::Duration window_until() const { return window_until_; }

  // Why this Hello is refused: ALREADY_EXISTS for a node id or GPU that another state folder holds,
  // FAILED_PRECONDITION for a protocol that does not meet or an incarnation older than the newest.
  absl::Status Admit(const v1::Hello& hello) const;
  // The node is LIVE again; an older session of it is closed. True when the incarnation is new. Nothing is sent
  // before OpenSession: what the Hello changes comes first, then Welcome.
  bool Welcome(const v1::Hello& hello);
  void OpenSession(uint64_t session, Worker* worker);
  void Unbind(uint64_t session);
  // Notes a message: the lease begins again, acknowledgements give the round trip.
  void Heard(Worker* worker, const v1::SessionRequest& message);

  // Workers whose lease, or whose reattach window, is over now; they are LOST in the table already.
  std::vector<Worker*> TakeLost();

  // Removes a LOST worker and its row. Pointers to it end.
  void Forget(const std::string& node_id);

  Worker* Find(std::string_view node_id);
  const Worker* Find(std::string_view node_id) const;
  Worker* BySession(uint64_t session);
  const std::map<std::string, std::unique_ptr<Worker>>& all() const { return workers_; }

  // Sends when the worker has a session; else nothing: its next Hello reconciles.
  void Send(Worker* worker, v1::SessionResponse message);

  void TakeSlot(Worker* worker, const v1::Device& device, std::string_view attempt_id, uint64_t fence, int32_t rank);
  // False when no slot of the worker was held by this rank.
  bool FreeSlot(Worker* worker, std::string_view attempt_id, int32_t rank);
  static bool IsTaken(const Worker& worker, const v1::Device& device);

 private:
  const CoordinatorOptions* const options_;
  Ledger* const ledger_;
  std::map<std::string, std::unique_ptr<Worker>> workers_;
  std::map<uint64_t, std::string> sessions_;  // session -> node_id
  absl::Duration window_until_;

  void Save(const Worker& worker);
};

// A device's identity on its node.
bool SameDevice(const v1::Device& a, const v1::Device& b);

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CORE_WORKER_TABLE_H_
