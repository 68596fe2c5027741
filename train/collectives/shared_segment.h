// Memory of one size on every rank of a machine, mapped by all.
#ifndef VLM_TRAIN_COLLECTIVES_SHARED_SEGMENT_H_
#define VLM_TRAIN_COLLECTIVES_SHARED_SEGMENT_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "base/status.h"
#include "train/collectives/peer_mesh.h"

namespace vlm::train {

// Each rank's part is written by its owner and read by the others. Unmapped when the last owner goes.
class SharedSegment {
 public:
  // Makes this rank's memfd of `bytes` (zeroed), passes it to every peer and maps theirs. Collective.
  static absl::StatusOr<std::shared_ptr<SharedSegment>> Exchange(int rank, const std::vector<UniqueFd>& sockets,
                                                                 size_t bytes, const Patience& patience);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;

  std::byte* of(int rank) const { return mapped_[static_cast<size_t>(rank)]; }
  size_t bytes() const { return bytes_; }

 private:
  SharedSegment(size_t world, size_t bytes) : mapped_(world), bytes_(bytes) {}
  std::vector<std::byte*> mapped_;
  size_t bytes_;
};

}  // namespace vlm::train

#endif  // VLM_TRAIN_COLLECTIVES_SHARED_SEGMENT_H_
