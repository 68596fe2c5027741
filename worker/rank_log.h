// What one rank prints, kept on disk within bounds until it has been shipped.
#ifndef VLM_WORKER_RANK_LOG_H_
#define VLM_WORKER_RANK_LOG_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace vlm::worker {

// Segments of 8 MiB named by number in one folder: the first, where configuration and early errors stand, and the
// newest seven; those between are removed (64 MiB in all). Offsets count every byte ever printed. Not thread-safe.
class RankLog {
 public:
  static constexpr uint64_t kSegmentBytes = 8u << 20;
  static constexpr uint64_t kNewestSegments = 7;

  // Opens or makes the folder; an existing log is continued at its end. `segment_bytes` is for tests.
  static absl::StatusOr<std::unique_ptr<RankLog>> Create(const std::string& folder,
                                                         uint64_t segment_bytes = kSegmentBytes);
  ~RankLog();

  // RESOURCE_EXHAUSTED and the like from the disk; the bytes are then counted as lost.
  absl::Status Append(std::string_view bytes);

  struct Chunk {
    uint64_t offset = 0;         // of data
    std::string data;            // empty: nothing more yet
    uint64_t dropped_bytes = 0;  // between the offset asked for and `offset`
  };
  absl::StatusOr<Chunk> Read(uint64_t offset, size_t bytes_max) const;
  uint64_t size() const { return size_; }

 private:
  RankLog(std::string folder, uint64_t segment_bytes);
  std::string PathOf(uint64_t segment) const;
  absl::Status OpenSegment(uint64_t segment);

  const std::string folder_;
  const uint64_t segment_bytes_;
  uint64_t size_ = 0;
  int file_ = -1;  // the newest segment
  uint64_t open_segment_ = 0;
};

}  // namespace vlm::worker

#endif  // VLM_WORKER_RANK_LOG_H_
