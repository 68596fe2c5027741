// What a rank is about to do, as it tells its peers: the check that makes disagreement an error, not a hang.
#ifndef VLM_TRAIN_COLLECTIVES_OPERATION_H_
#define VLM_TRAIN_COLLECTIVES_OPERATION_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace vlm::train {

enum class OperationKind : uint32_t {
  kAllocate = 1,
  kReduceScatterAdd = 2,
  kAllGather = 3,
  kAllGatherBytes = 4,
  kBarrier = 5,
  kAbort = 6,  // over TCP, in place of any other: its payload is the reason
};

// Longer reasons of an abort are cut: they cross in memory and messages of fixed size.
inline constexpr size_t kAbortReasonBytesMax = 512;

// ABORTED as peers of `rank` see it.
absl::Status AbortedByPeer(int rank, std::string_view reason);

// Trivially copyable: it stands in shared memory and in TCP messages (ranks run one build on one kind of machine).
struct Operation {
  uint64_t sequence = 0;
  OperationKind kind = OperationKind::kBarrier;
  uint32_t element_bytes = 0;
  int64_t numel = 0;
  int32_t segment = -1;      // shared memory: which allocation the buffer lies in; -1: none
  uint32_t contributes = 1;  // kReduceScatterAdd: 0 adds nothing
  int64_t segment_offset = 0;
  char tag[40] = {};  // cut to fit
};

Operation MakeOperation(uint64_t sequence, OperationKind kind, int64_t numel, uint32_t element_bytes,
                        std::string_view tag);

std::string DescribeOperation(const Operation& operation);

// FAILED_PRECONDITION naming both sides unless the two are parts of one collective call. Lengths of byte
// gathers and contributions may differ.
absl::Status CheckSameOperation(int rank, const Operation& mine, int peer, const Operation& theirs);

}  // namespace vlm::train

#endif  // VLM_TRAIN_COLLECTIVES_OPERATION_H_
