// The checkpoint service: the catalog of steps and artifacts behind /vlm.v1.CheckpointService/*.
//
// One actor (the core) on an executor, a MetaStore of its own, and the disk's work on more executors, so that neither a
// long verification nor the removal of large files delays a save. Embedded in the coordinator or alone: the caller
// serves `registry`.
#ifndef VLM_CHECKPOINT_SERVICE_CHECKPOINT_SERVICE_H_
#define VLM_CHECKPOINT_SERVICE_CHECKPOINT_SERVICE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/executor.h"
#include "base/file_system.h"
#include "checkpoint/core/checkpoint_core.h"
#include "rpc/server.h"
#include "store/meta_store.h"

namespace vlm::checkpoint {

struct CheckpointServiceOptions {
  std::vector<std::string> allowed_roots;  // artifact roots lie at or beneath one of these
  std::string new_catalog_uuid;            // 16 random bytes, used when the store is new
  // Told each event after it is durable, on the actor's executor. May be empty.
  std::function<void(const CatalogEvent&)> on_event;
  // The store failed: memory is ahead of the disk. Must not return; the process ends and is started again.
  std::function<void(const absl::Status&)> on_store_failure;
};

// What the service works with; all must outlive it. The executors may be one and the same (the simulation's).
struct CheckpointServiceDeps {
  store::MetaStore* store;  // opened with CatalogFamilies(), used by nobody else
  FileSystem* files;
  const Clock* clock;
  Executor* actor;              // decisions and commits
  Executor* disk;               // folders, sizes, COMMITTED.json
  Executor* verifier;           // re-reading a whole step before it is published or reused
  Executor* auditor = nullptr;  // re-reading steps for people, hours long; null: `verifier` does it
  // Removal of steps, which takes long for large files; only a save that lacks space waits for it. Null: `disk` does
  // it.
  Executor* remover = nullptr;
};

// Thread-safe. Destruction must come after the executors have stopped, or on a quiet simulation.
class CheckpointService {
 public:
  // Reads the catalog and takes up what a crash left. DATA_LOSS when a row does not parse; FAILED_PRECONDITION
  // when a newer program wrote the store; INVALID_ARGUMENT without allowed roots.
  static absl::StatusOr<std::unique_ptr<CheckpointService>> Create(CheckpointServiceOptions options,
                                                                   const CheckpointServiceDeps& deps);
  ~CheckpointService();

  // Adds the service's methods; handlers never block. The registry must not outlive the service.
  void Register(rpc::ServiceRegistry* registry);

 private:
  class Actor;
  explicit CheckpointService(std::shared_ptr<Actor> actor);
  const std::shared_ptr<Actor> actor_;
};

}  // namespace vlm::checkpoint

#endif  // VLM_CHECKPOINT_SERVICE_CHECKPOINT_SERVICE_H_
