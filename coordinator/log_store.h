// Logs of ranks, as files: <root>/<job>/<stage>/<fence>/rank-<n>.log.
//
// A byte stands in the file at its offset in the rank's output, so a repeated chunk changes nothing. Bytes that
// were lost on the way are a gap: a hole in the file, listed in rank-<n>.gaps. Nothing here is synced: after a
// power loss the last seconds may be missing.
//
// Three limits. An attempt at its own: what comes is dropped and becomes a gap. A job at its: the logs of its oldest
// attempts are removed. All together at theirs: the logs of ended attempts are removed, longest unwritten first,
// whatever their job. Where only attempts that may still run are left, what comes becomes a gap.
#ifndef VLM_COORDINATOR_LOG_STORE_H_
#define VLM_COORDINATOR_LOG_STORE_H_

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
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
  std::string root;                         // made when missing
  uint64_t attempt_bytes_max = 128u << 20;  // stored bytes of one attempt, all its ranks
  uint64_t job_bytes_max = 256u << 20;      // of one job
  uint64_t total_bytes_max = 4ull << 30;    // of all
  size_t gaps_max = 1024;                   // of one log; then everything that follows is one gap
  // Whether a job is over, so that its newest attempts have ended too. None: no job is.
  std::function<bool(const std::string& job)> job_ended = nullptr;
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
  struct StoredAttempt;
  std::vector<StoredAttempt> Attempts(const std::string& job) const;
  void Remove(const StoredAttempt& attempt);
  uint64_t& JobBytes(const std::string& job);
  uint64_t& AttemptBytes(const LogKey& key);
  uint64_t& TotalBytes();
  bool MakeRoom(const LogKey& key, uint64_t bytes);
  bool MakeRoomInJob(const LogKey& key, uint64_t bytes);
  bool MakeRoomInAll(const LogKey& key, uint64_t bytes);
  std::string Path(const LogKey& key, std::string_view suffix) const;

  const LogStoreOptions options_;
  std::map<LogKey, File> files_;  // those touched since the start; at most kFilesMax
  std::map<std::string, uint64_t> job_bytes_;
  std::map<LogKey, uint64_t> attempt_bytes_;  // by the key of rank 0
  std::optional<uint64_t> total_bytes_;       // counted on first use
  size_t looks_skipped_ = 0;
};

// OK when `name` can be one part of a path: 1 to 128 letters, digits, '-', '_' or '.', not beginning with '.'.
absl::Status CheckPathPart(std::string_view name);

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_LOG_STORE_H_
