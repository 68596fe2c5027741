// The unary methods of /vlm.v1.JobService/*.
#ifndef VLM_COORDINATOR_JOB_SERVICE_H_
#define VLM_COORDINATOR_JOB_SERVICE_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <string>

#include "base/clock.h"
#include "base/executor.h"
#include "coordinator/artifact_roots.h"
#include "coordinator/coordinator_metrics.h"
#include "coordinator/decision_loop.h"
#include "coordinator/point_store.h"
#include "coordinator/store_space.h"
#include "rpc/server.h"
#include "spec/diagnostic.h"
#include "store/meta_store.h"
#include "vlm/v1/job.pb.h"

namespace vlm::coordinator {

struct JobServiceDeps {
  DecisionLoop* loop = nullptr;
  store::MetaStore* store = nullptr;  // for job files
  const PointStore* points = nullptr;
  const ArtifactRoots* roots = nullptr;
  const StoreSpace* space = nullptr;  // whether a new job may be stored
  Executor* parser = nullptr;         // job files are parsed here: the slowest part of a submit
  Executor* reader = nullptr;         // reads of the store
  const Clock* clock = nullptr;
  CoordinatorMetrics* metrics = nullptr;
};

inline constexpr size_t kParsesWaitingMax = 1024;  // more submits are RESOURCE_EXHAUSTED

// Thread-safe. Must outlive the server that serves its registry and both executors' threads.
class JobService {
 public:
  explicit JobService(const JobServiceDeps& deps) : deps_(deps) {}
  void Register(rpc::ServiceRegistry* registry);

 private:
  using SubmitDone = std::function<void(absl::StatusOr<v1::SubmitJobResponse>)>;
  void Submit(const rpc::CallContext& context, v1::SubmitJobRequest request, SubmitDone done);
  void Parsed(v1::SubmitJobRequest request, std::string actor, SubmitDone done);
  void GetJob(v1::GetJobRequest request, std::function<void(absl::StatusOr<v1::GetJobResponse>)> done);
  void ListJobs(v1::ListJobsRequest request, std::function<void(absl::StatusOr<v1::ListJobsResponse>)> done);

  const JobServiceDeps deps_;
  std::atomic<size_t> parses_waiting_ = 0;
};

// INVALID_ARGUMENT with one line for each error: "<field path>: line L, column C: <what>; <remedy>", and the same as
// field violations (rpc/bad_request.h). Those that do not fit into a status are counted in its last line.
absl::Status DiagnosticsStatus(const spec::Diagnostics& diagnostics);

}  // namespace vlm::coordinator

#endif  // VLM_COORDINATOR_JOB_SERVICE_H_
