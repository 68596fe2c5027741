// Collectives between the ranks of one attempt, behind one interface: a single rank, shared memory, TCP, NCCL.
#ifndef VLM_TRAIN_COLLECTIVE_H_
#define VLM_TRAIN_COLLECTIVE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"

namespace vlm::train {

// Of one operation. Longer than every phase in which the coordinator lets a rank be silent
// (CoordinatorOptions::hang_*): a rank that hangs is found and named there, before those that wait for it give up.
inline constexpr absl::Duration kCollectiveDeadline = absl::Minutes(15);

// Buffers are cut into equal shards: rank r owns [r * n, (r + 1) * n), n = numel / world.
//
// One rank's handle. Every rank makes the same calls in the same order; calls of one rank do not overlap
// (one thread at a time). Blocking calls return DEADLINE_EXCEEDED naming operation and sequence number when a
// peer does not arrive in time, UNAVAILABLE when a peer is dead (PEER_LOST for the attempt), ABORTED after
// Abort(), and FAILED_PRECONDITION naming both sides when peers disagree about operation, tag or size. After
// any error the collective is unusable.
//
// Order of summation: contributions are added one by one in rank order (docs/architecture.md, the
// way of a tensor). The tag names what is being moved (a bucket) for error messages and the disagreement check.
class Collective {
 public:
  virtual ~Collective() = default;
  virtual int rank() const = 0;
  virtual int world() const = 0;

  // A 1-d tensor that peers can read in place where the backend can do that (shared memory); plain memory
  // elsewhere. Collective: every rank asks for the same sizes in the same order. Lives as long as *this.
  virtual absl::StatusOr<at::Tensor> Allocate(int64_t numel, at::ScalarType type, std::string_view tag) = 0;

  // accumulator (fp32, numel/world, this rank's shard) += for each contributing rank r in ascending order:
  // r's send[shard]. `send` (numel) is fp32 or bf16; `contributes` false: this rank adds nothing, the contents of
  // its `send` are not read. numel must be a multiple of world and equal on every rank.
  virtual absl::Status ReduceScatterAdd(const at::Tensor& send, bool contributes, at::Tensor accumulator,
                                        std::string_view tag) = 0;
  // Fills `full` (numel) on every rank from the ranks' shards; this rank's shard is read from `shard`
  // (numel/world; may alias its place in `full`). Any type. On every rank alike, memory from Allocate is `full`, the
  // whole of `shard`, or neither; the first two spare a copy where peers read in place. Written as raw memory: autograd
  // is told by the caller, when there is something to tell.
  virtual absl::Status AllGather(const at::Tensor& shard, at::Tensor full, std::string_view tag) = 0;
  // Host bytes of any length from each rank, to each rank, in rank order. For headers and small facts.
  virtual absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine, std::string_view tag) = 0;
  virtual absl::Status Barrier(std::string_view tag) = 0;

  // From any thread: makes the current and every later call on every rank return ABORTED with this rank and `reason`
  // (its first 512 bytes), which a rank says before it leaves on an error. Over TCP a peer that is in the middle of a
  // message from this rank cannot be told and gets UNAVAILABLE. After a failure of this handle its own calls keep that
  // failure.
  virtual void Abort(std::string_view reason) = 0;
  // From any thread, without entering an operation or blocking: ABORTED or UNAVAILABLE when a peer has aborted or is
  // known to be gone, else OK (also from a backend that learns of it only in an operation).
  virtual absl::Status health() const { return absl::OkStatus(); }
  // Sequence number of the last operation entered; read by the heartbeat thread.
  virtual uint64_t sequence() const = 0;
  virtual uint64_t bytes_communicated() const = 0;
};

// world = 1: no communication, the same arithmetic.
std::unique_ptr<Collective> NewSingleRankCollective();

}  // namespace vlm::train

#endif  // VLM_TRAIN_COLLECTIVE_H_
