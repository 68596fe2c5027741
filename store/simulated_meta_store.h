// MetaStore in memory that forgets its unsynced tail on a crash, for the deterministic simulation and for tests.
#ifndef VLM_STORE_SIMULATED_META_STORE_H_
#define VLM_STORE_SIMULATED_META_STORE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "store/meta_store.h"

namespace vlm::store {

// Thread-safe.
class SimulatedMetaStore final : public MetaStore {
 public:
  explicit SimulatedMetaStore(std::vector<std::string> families);

  absl::Status Commit(const std::vector<Mutation>& mutations, Durability durability) override;
  absl::StatusOr<std::optional<std::string>> Get(std::string_view family, std::string_view key) const override;
  absl::Status ScanFrom(std::string_view family, std::string_view prefix, std::string_view first,
                        const Visitor& visitor) const override;

  // Power loss and reopening: keeps the synced commits and the first `unsynced_kept` of those after the last
  // synced one (all when there are fewer). Ends the state a failed commit left.
  void Crash(uint64_t unsynced_kept = 0);
  // Number of commits that would be lost by Crash().
  uint64_t unsynced() const;
  // Bytes of keys and values the disk holds; a commit that does not fit is RESOURCE_EXHAUSTED, and every call
  // after it fails too, as RocksDB may, until Crash().
  void SetCapacity(uint64_t bytes);
  // Every commit after the next `commits` ones fails with ABORTED until Crash().
  void StopAfter(uint64_t commits);
  uint64_t commits() const;

 private:
  using Families = std::map<std::string, std::map<std::string, std::string>>;
  absl::Status CheckOpen() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  Families visible_ ABSL_GUARDED_BY(mutex_);
  Families durable_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::vector<Mutation>> unsynced_ ABSL_GUARDED_BY(mutex_);
  uint64_t capacity_bytes_ ABSL_GUARDED_BY(mutex_) = UINT64_MAX;
  uint64_t stop_after_ ABSL_GUARDED_BY(mutex_) = UINT64_MAX;
  uint64_t commits_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vlm::store

#endif  // VLM_STORE_SIMULATED_META_STORE_H_
