// The checkpoint service embedded in the coordinator: its own database and threads, its methods on the
// coordinator's server, and the coordinator's own calls through the memory transport, so that a service in another
// process would change nothing here.
#ifndef VLM_COORDINATOR_CHECKPOINT_LINK_H_
#define VLM_COORDINATOR_CHECKPOINT_LINK_H_

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file_system.h"
#include "base/mutex.h"
#include "base/stoppable_executor.h"
#include "checkpoint/service/checkpoint_service.h"
#include "coordinator/core/messages.h"
#include "coordinator/decision_loop.h"
#include "rpc/memory_transport.h"
#include "rpc/server.h"
#include "store/meta_store.h"

namespace vlm::coordinator {

struct CheckpointLinkOptions {
  std::string database;  // folder of the catalog's own database
  std::vector<std::string> allowed_roots;
  // Answers of effects and hints of commits; must not block. Not called after Stop.
  std::function<void(Input)> tell;
  std::function<void(const absl::Status&)> on_store_failure;
};

// Thread-safe.
class CheckpointLink {
 public:
  // Errors of OpenRocksDbMetaStore and CheckpointService::Create.
  static absl::StatusOr<std::unique_ptr<CheckpointLink>> Create(CheckpointLinkOptions options, FileSystem* files,
                                                                const Clock* clock);
  ~CheckpointLink();  // Stop()

  // What the network may call: not OpenAttempt and CommitArtifact, which are the coordinator's own. A worker's call
  // that writes is passed on when the core knows ranks of the attempt on the worker it names (Coordinator::CheckWriter;
  // INVALID_ARGUMENT when it names none). `loop` must outlive the server that serves the registry.
  void Register(DecisionLoop* loop, rpc::ServiceRegistry* registry);

  // Each is answered once through `tell`, unless Stop comes first.
  void Perform(const OpenAttempt& effect);
  void Perform(const CommitArtifact& effect);
  void Perform(const VerifyStep& effect);

  // Drops what is in progress; its state is durable and taken up at the next start.
  void Stop();

 private:
  explicit CheckpointLink(CheckpointLinkOptions options);

  const CheckpointLinkOptions options_;
  Mutex mutex_;
  std::set<std::string> verifying_ ABSL_GUARDED_BY(mutex_);  // stages whose verification runs
  std::unique_ptr<store::MetaStore> store_;
  StoppableExecutor transport_thread_{"catalog-rpc"};
  StoppableExecutor actor_{"catalog"};
  StoppableExecutor disk_{"catalog-disk"};
  StoppableExecutor remover_{"catalog-remove"};
  StoppableExecutor verifier_{"catalog-verify"};
  StoppableExecutor auditor_{"catalog-audit"};
  std::unique_ptr<checkpoint::CheckpointService> service_;
  std::unique_ptr<rpc::MemoryTransport> transport_;
  std::unique_ptr<rpc::Channel> channel_;
};

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_CHECKPOINT_LINK_H_
