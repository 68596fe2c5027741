// The durable, ordered key-value store behind the coordinator and the checkpoint service.
//
// Implementations: RocksDB (store/rocksdb_meta_store.h) and simulated (store/simulated_meta_store.h); one suite,
// tests/conformance/meta_store_test.cc, holds for both.
#ifndef VLM_STORE_META_STORE_H_
#define VLM_STORE_META_STORE_H_

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/key_value.h"
#include "base/status.h"

namespace vlm::store {

enum class Durability {
  kUnsynced,  // survives the end of the process, may be lost with the machine; order is kept: what a crash loses
              // is a tail of the commits
  kSynced,    // on disk before Commit returns, together with every commit before it
};

// Thread-safe. Keys and values are bytes, keys ordered as unsigned bytes.
//
// Any error of an open store is fatal for its owner: memory may be ahead of the disk, and a RocksDB that met a
// full disk may stay failed even after space is freed. Log it, leave the process, open again.
class MetaStore {
 public:
  virtual ~MetaStore() = default;

  // All mutations or none, in order (a later one of the same key wins). INVALID_ARGUMENT, with nothing changed,
  // for a family the store was not opened with; RESOURCE_EXHAUSTED for a full disk; INTERNAL otherwise.
  virtual absl::Status Commit(const std::vector<Mutation>& mutations, Durability durability) = 0;

  // Nothing when the key is absent.
  virtual absl::StatusOr<std::optional<std::string>> Get(std::string_view family, std::string_view key) const = 0;

  // Gets the keys in order; returns false to stop. Must not call the store.
  using Visitor = std::function<bool(std::string_view key, std::string_view value)>;

  // Visits a consistent snapshot of the keys that begin with `prefix`.
  absl::Status Scan(std::string_view family, std::string_view prefix, const Visitor& visitor) const {
    return ScanFrom(family, prefix, prefix, visitor);
  }
  // The same from `first` on (itself included), for pages.
  virtual absl::Status ScanFrom(std::string_view family, std::string_view prefix, std::string_view first,
                                const Visitor& visitor) const = 0;
};

}  // namespace vlm::store

#endif  // VLM_STORE_META_STORE_H_
