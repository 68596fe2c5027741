// MetaStore on RocksDB.
#ifndef VLM_STORE_ROCKSDB_META_STORE_H_
#define VLM_STORE_ROCKSDB_META_STORE_H_

#include <memory>
#include <string>
#include <vector>

#include "store/meta_store.h"

namespace vlm::store {

struct RocksDbOptions {
  std::string path;                   // the database's own folder; its parent must exist
  std::vector<std::string> families;  // made when missing; those of an older program stay, untouched
};

// Opens or makes the database. Tuned for small rows and a fast restart: write-ahead log up to 16 MiB, write
// buffers of 8 MiB, no statistics and no size checks on open.
// A record at the very end of the log that a crash cut short, or of which sectors of zeros are left up to the log's end
// (a file system may keep a file's new length without its bytes), was never acknowledged and is dropped; damage
// anywhere else is an error, never a silent loss of what follows it. (Two kinds of damage cannot be told from such an
// end: a record's length, within the log's last 32 KiB, and sectors of zeros over the end of the log.)
// After an error of Commit leave the process at once, without destroying the store: RocksDB may abort while it closes a
// log that it could not write.
// FAILED_PRECONDITION when another process (its pid is named where it can be found) or this one has it open;
// DATA_LOSS when the files are damaged; RESOURCE_EXHAUSTED for a full disk; INTERNAL otherwise.
absl::StatusOr<std::unique_ptr<MetaStore>> OpenRocksDbMetaStore(const RocksDbOptions& options);

}  // namespace vlm::store

#endif  // VLM_STORE_ROCKSDB_META_STORE_H_
