// Logs of ranks, as files: <root>/<job>/<stage>/<fence>/rank-<n>.log.
//
// A byte stands in the file at its offset in the rank's output, so a repeated chunk changes nothing. Bytes that
// were lost on the way are a gap: a hole in the file, listed in rank-<n>.gaps. A job's logs are bounded: at the
// limit its oldest attempts' logs are removed, and when only the newest attempt's are left, what comes is dropped
// and becomes a gap. Nothing here is synced: after a power loss the last seconds may be missing.
#ifndef VLM_COORDINATOR_LOG_STORE_H_
#define VLM_COORDINATOR_LOG_STORE_H_

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace vlm::coordinator {

struct LogKey {
  std::string job;
  std::string stage;
  uint64_t fence = 0;
  int32_t rank = 0;
  friend auto operator<=>(const LogKey&, const LogKey&) = default;
};

struct LogStoreOptions {
  std::string root;                     // made when missing
  uint64_t job_bytes_max = 256u << 20;  // stored bytes of one job
  size_t gaps_max = 1024;               // of one log; then everything that follows is one gap
};

// Not thread-safe: one thread of control. Blocks on the disk.
class LogStore {
 public:
  explicit LogStore(LogStoreOptions options);

  struct Appended {
    uint64_t end = 0;      // everything before is stored or known to be lost
    uint64_t stored = 0;   // new bytes
    uint64_t dropped = 0;  // new bytes that are lost
  };
  // `offset` is that of the first byte of `data`; bytes between the stored end and `offset` are lost.
  // INVALID_ARGUMENT for a key that cannot be a path; errors of the disk else.
  absl::StatusOr<Appended> Append(const LogKey& key, uint64_t offset, std::string_view data);

  struct Piece {
    uint64_t offset = 0;   // of data's first byte
    std::string data;      // empty: nothing is stored after `offset` yet
    uint64_t dropped = 0;  // lost between the asked offset and `offset`
  };
  // At most `bytes_max` from `offset` on, not across a gap. NOT_FOUND when the rank has no log.
  absl::StatusOr<Piece> Read(const LogKey& key, uint64_t offset, size_t bytes_max);

 private:
  struct Gap {
    uint64_t begin = 0, end = 0;
  };
  struct File {
    uint64_t end = 0;
    std::vector<Gap> gaps;  // in order, apart from each other
  };
  absl::StatusOr<File*> Open(const LogKey& key, bool make);
  absl::Status AddGap(const LogKey& key, File* file, uint64_t begin, uint64_t end);
  uint64_t& JobBytes(const std::string& job);
  bool MakeRoom(const LogKey& key, uint64_t bytes);
  std::string Path(const LogKey& key, std::string_view suffix) const;

  const LogStoreOptions options_;
  std::map<LogKey, File> files_;  // those touched since the start; at most kFilesMax
  std::map<std::string, uint64_t> job_bytes_;
};

// OK when `name` can be one part of a path: 1 to 128 letters, digits, '-', '_' or '.', not beginning with '.'.
absl::Status CheckPathPart(std::string_view name);

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_LOG_STORE_H_
