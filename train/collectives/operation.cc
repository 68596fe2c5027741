#include "train/collectives/operation.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace vlm::train {
namespace {

const char* NameOf(OperationKind kind) {
  switch (kind) {
    case OperationKind::kAllocate:
      return "allocate";
    case OperationKind::kReduceScatterAdd:
      return "reduce-scatter";
    case OperationKind::kAllGather:
      return "all-gather";
    case OperationKind::kAllGatherBytes:
      return "all-gather of bytes";
    case OperationKind::kBarrier:
      return "barrier";
    case OperationKind::kAbort:
      return "abort";
  }
  return "unknown operation";
}

}  // namespace

Operation MakeOperation(uint64_t sequence, OperationKind kind, int64_t numel, uint32_t element_bytes,
                        std::string_view tag) {
  Operation operation;
  operation.sequence = sequence;
  operation.kind = kind;
  operation.numel = numel;
  operation.element_bytes = element_bytes;
  std::memcpy(operation.tag, tag.data(), std::min(tag.size(), sizeof(operation.tag) - 1));
  return operation;
}

absl::Status AbortedByPeer(int rank, std::string_view reason) {
  return absl::AbortedError(
      absl::StrCat("collective aborted by rank ", rank, ": ", absl::string_view(reason.data(), reason.size())));
}

std::string DescribeOperation(const Operation& operation) {
  return absl::StrCat("#", operation.sequence, " ", NameOf(operation.kind), " of ", operation.numel, " x ",
                      operation.element_bytes, " bytes, \"", operation.tag, "\"");
}

absl::Status CheckSameOperation(int rank, const Operation& mine, int peer, const Operation& theirs) {
  const bool sized = mine.kind != OperationKind::kAllGatherBytes;
  if (mine.sequence == theirs.sequence && mine.kind == theirs.kind && mine.element_bytes == theirs.element_bytes &&
      (!sized || mine.numel == theirs.numel) && mine.segment == theirs.segment &&
      mine.segment_offset == theirs.segment_offset && std::strncmp(mine.tag, theirs.tag, sizeof(mine.tag)) == 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat("ranks disagree about a collective: rank ", rank, " is at ",
                                                    DescribeOperation(mine), "; rank ", peer, " is at ",
                                                    DescribeOperation(theirs)));
}

}  // namespace vlm::train
