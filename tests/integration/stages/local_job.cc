#include "tests/integration/stages/local_job.h"

#include <algorithm>
#include <deque>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mutex.h"
#include "checkpoint/core/catalog_keys.h"
#include "checkpoint/service/checkpoint_service.h"
#include "rpc/memory_transport.h"
#include "spec/canonical.h"
#include "spec/compose.h"
#include "spec/parse.h"
#include "store/simulated_meta_store.h"
#include "trainer/stages/run_stage.h"
#include "vlm/v1/data.pb.h"

namespace vlm::trainer {
namespace {

// Leases every shard once, in order; the finish task when all are committed. What a stage's earlier attempt committed
// stays.
class ShardQueue {
 public:
  // `only`: see StageRun::shards.
  void Open(const spec::Stage& stage, const std::vector<uint32_t>& only) {
    MutexLock lock(&mutex_);
    if (stage.name != stage_) {
      stage_ = stage.name;
      outputs_.assign(stage.shards, {});
      committed_.clear();
    }
    waiting_.clear();
    for (uint32_t shard = 0; shard < stage.shards; ++shard) {
      const bool wanted = only.empty() || std::find(only.begin(), only.end(), shard) != only.end();
      if (wanted && !committed_.contains(shard)) waiting_.push_back(shard);
    }
    finishes_ = only.empty();
    failed_.clear();
    finish_leased_ = finished_ = false;
  }
  std::string failed() const {
    MutexLock lock(&mutex_);
    return failed_;
  }

  void Register(rpc::ServiceRegistry* registry) {
    registry->AddUnary<v1::LeaseShardsRequest, v1::LeaseShardsResponse>(
        "/vlm.v1.DataService/LeaseShards",
        [this](const rpc::CallContext&, v1::LeaseShardsRequest, auto respond) { respond(Lease()); });
    registry->AddUnary<v1::CommitShardRequest, v1::CommitShardResponse>(
        "/vlm.v1.DataService/CommitShard",
        [this](const rpc::CallContext&, v1::CommitShardRequest request, auto respond) {
          Commit(request);
          respond(v1::CommitShardResponse());
        });
    registry->AddUnary<v1::FailShardRequest, v1::FailShardResponse>(
        "/vlm.v1.DataService/FailShard", [this](const rpc::CallContext&, v1::FailShardRequest request, auto respond) {
          MutexLock lock(&mutex_);
          failed_ = request.error();
          respond(v1::FailShardResponse());
        });
    registry->AddUnary<v1::ListShardsRequest, v1::ListShardsResponse>(
        "/vlm.v1.DataService/ListShards", [this](const rpc::CallContext&, v1::ListShardsRequest, auto respond) {
          MutexLock lock(&mutex_);
          v1::ListShardsResponse response;
          for (const v1::ShardOutput& output : outputs_) *response.add_outputs() = output;
          respond(response);
        });
  }

 private:
  absl::StatusOr<v1::LeaseShardsResponse> Lease() {
    MutexLock lock(&mutex_);
    v1::LeaseShardsResponse response;
    response.set_retry_ms(5);
    if (finished_ || !failed_.empty()) {
      response.set_done(true);
    } else if (!waiting_.empty()) {
      auto* const lease = response.add_leases();
      lease->set_shard(waiting_.front());
      lease->set_lease_id(++lease_id_);
      waiting_.pop_front();
    } else if (!finishes_) {
      response.set_done(true);
    } else if (committed_.size() == outputs_.size() && !finish_leased_) {
      finish_leased_ = true;
      auto* const lease = response.add_leases();
      lease->set_shard(static_cast<uint32_t>(outputs_.size()));
      lease->set_lease_id(++lease_id_);
      lease->set_finish(true);
    }
    return response;
  }

  void Commit(const v1::CommitShardRequest& request) {
    MutexLock lock(&mutex_);
    if (request.shard() == outputs_.size()) {
      finished_ = true;
    } else {
      outputs_[request.shard()] = request.output();
      committed_.insert(request.shard());
    }
  }

  mutable Mutex mutex_;
  std::string stage_ ABSL_GUARDED_BY(mutex_);
  std::deque<uint32_t> waiting_ ABSL_GUARDED_BY(mutex_);
  bool finishes_ ABSL_GUARDED_BY(mutex_) = true;
  uint64_t lease_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool finish_leased_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::string failed_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::ShardOutput> outputs_ ABSL_GUARDED_BY(mutex_);
  std::set<uint32_t> committed_ ABSL_GUARDED_BY(mutex_);
};

// Where ranks of one attempt meet.
struct Meeting {
  Mutex mutex;
  CondVar changed;
  std::vector<LinkEndpoint> endpoints ABSL_GUARDED_BY(mutex);
  int posted ABSL_GUARDED_BY(mutex) = 0;
};

class LocalLink final : public WorkerLink {
 public:
  LocalLink(Assignment assignment, std::shared_ptr<Meeting> meeting, rpc::MemoryTransport* transport,
            const StageRun& run)
      : assignment_(std::move(assignment)), meeting_(std::move(meeting)), channel_(transport->Connect()), run_(run) {}

  const Assignment& assignment() const override { return assignment_; }
  absl::StatusOr<std::vector<LinkEndpoint>> Rendezvous(const LinkEndpoint& mine, absl::Duration timeout) override {
    MutexLock lock(&meeting_->mutex);
    meeting_->endpoints[static_cast<size_t>(assignment_.rank)] = mine;
    ++meeting_->posted;
    meeting_->changed.NotifyAll();
    while (meeting_->posted < assignment_.world) meeting_->changed.Wait(&meeting_->mutex);
    return meeting_->endpoints;
  }
  void PostReady() override {}
  void SetPhase(Phase phase) override {
    if (run_.on_phase) run_.on_phase(phase);
  }
  void SetProgress(const Progress& progress) override {
    if (run_.on_progress) run_.on_progress(progress);
  }
  void WatchCollective(std::function<uint64_t()>) override {}
  void AddMetric(std::string_view series, uint64_t, double value) override {
    if (run_.on_metric) run_.on_metric(series, value);
  }
  void ReportFailure(int, std::string_view) override {}
  void Flush() override {}
  rpc::Channel* channel() override { return channel_.get(); }
  rpc::CallOptions call_options() const override { return {.deadline = absl::Minutes(1)}; }

 private:
  const Assignment assignment_;
  const std::shared_ptr<Meeting> meeting_;
  const std::unique_ptr<rpc::Channel> channel_;
  const StageRun& run_;
};

std::string UidOf(const std::string& stage) { return Sha256Of(stage).Hex().substr(0, 16); }

}  // namespace

struct LocalJob::State {
  std::string folder;
  spec::Job job;
  std::map<std::string, InputArtifact> artifacts;
  uint64_t fence = 0;
  ShardQueue shards;
  store::SimulatedMetaStore store{checkpoint::CatalogFamilies()};
  std::unique_ptr<checkpoint::CheckpointService> service;
  std::unique_ptr<Executor> actor = NewThreadExecutor("actor"), disk = NewThreadExecutor("disk"),
                            verifier = NewThreadExecutor("verifier"), network = NewThreadExecutor("network");
  std::unique_ptr<rpc::MemoryTransport> transport;
};

LocalJob::LocalJob(std::unique_ptr<State> state) : state_(std::move(state)) {}

LocalJob::~LocalJob() {
  state_->transport->Stop();
  state_->network.reset();
  state_->verifier.reset();
  state_->disk.reset();
  state_->actor.reset();
}

absl::StatusOr<std::unique_ptr<LocalJob>> LocalJob::Create(const std::string& folder, const std::string& job_file,
                                                           const std::vector<std::string>& overrides) {
  auto state = std::make_unique<State>();
  state->folder = folder;
  VLM_RETURN_IF_ERROR(RemoveTree(PosixFileSystem(), folder));
  VLM_RETURN_IF_ERROR(MakeDirectories(PosixFileSystem(), folder + "/artifacts"));
  spec::Diagnostics diagnostics;
  const std::optional<std::string> composed = spec::Compose(PosixFileSystem(), job_file, overrides, &diagnostics);
  if (!composed.has_value()) return diagnostics.ToStatus();
  std::optional<spec::Job> job = spec::ParseJob(*composed, job_file, &diagnostics);
  if (!job.has_value()) return diagnostics.ToStatus();
  state->job = *std::move(job);

  checkpoint::CheckpointServiceOptions options;
  options.allowed_roots = {folder + "/artifacts"};
  options.new_catalog_uuid = "local-job-uuid-0";
  options.on_store_failure = [](const absl::Status& status) { VLM_CHECK(status.ok(), std::string(status.message())); };
  VLM_ASSIGN_OR_RETURN(state->service, checkpoint::CheckpointService::Create(
                                           options, {&state->store, PosixFileSystem(), RealClock(), state->actor.get(),
                                                     state->disk.get(), state->verifier.get()}));
  rpc::ServiceRegistry registry;
  state->service->Register(&registry);
  state->shards.Register(&registry);
  state->transport = std::make_unique<rpc::MemoryTransport>(state->network.get());
  state->transport->Serve(std::move(registry));
  return std::unique_ptr<LocalJob>(new LocalJob(std::move(state)));
}

const spec::Job& LocalJob::job() const { return state_->job; }

std::string LocalJob::ArtifactFolder(const std::string& stage) const { return state_->artifacts.at(stage).folder; }

absl::Status LocalJob::RunStage(const std::string& name, const StageRun& run) {
  const spec::Stage* const stage = spec::FindStage(state_->job, name);
  if (stage == nullptr) return absl::NotFoundError("no such stage: " + name);
  const std::unique_ptr<rpc::Channel> channel = state_->transport->Connect();
  const checkpoint::CheckpointClient client(channel.get(), {.deadline = absl::Minutes(1)});

  Assignment assignment;
  assignment.fence = ++state_->fence;
  assignment.attempt_id = absl::StrCat(name, "/", assignment.fence);
  assignment.job_id = "local";
  assignment.stage = name;
  assignment.stage_uid = UidOf(name);
  assignment.stage_json = spec::StageToJson(*stage);
  assignment.world = run.world;
  assignment.threads = run.threads;
  assignment.seed = stage->seed;
  assignment.artifacts = state_->folder + "/artifacts";
  assignment.shards = stage->shards;
  assignment.secret = std::string(32, 's');
  assignment.data_roots = {state_->folder};
  for (const std::string& ancestor : spec::Ancestors(state_->job, name)) {
    assignment.inputs.push_back(state_->artifacts.at(ancestor));
  }
  VLM_ASSIGN_OR_RETURN(const checkpoint::OpenedAttempt opened, client.OpenAttempt({.stage_uid = assignment.stage_uid,
                                                                                   .fence = assignment.fence,
                                                                                   .job_id = "local",
                                                                                   .stage = name,
                                                                                   .root = assignment.artifacts}));
  assignment.resume_step = opened.step;
  assignment.resume_folder = opened.folder;
  assignment.resume_cursor = opened.cursor;
  for (const uint64_t step : run.lost_steps) {
    checkpoint::StepToBegin lost;
    lost.stage_uid = assignment.stage_uid;
    lost.fence = assignment.fence;
    lost.step = step;
    lost.world = run.world;
    VLM_RETURN_IF_ERROR(client.BeginStep(lost).status());
  }
  state_->shards.Open(*stage, run.shards);

  auto meeting = std::make_shared<Meeting>();
  {
    MutexLock lock(&meeting->mutex);
    meeting->endpoints.resize(static_cast<size_t>(run.world));
  }
  std::vector<absl::Status> statuses(static_cast<size_t>(run.world));
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < run.world; ++rank) {
    ranks.emplace_back([&, rank] {
      Assignment mine = assignment;
      mine.rank = rank;
      mine.run_folder = absl::StrCat(state_->folder, "/run-", assignment.fence, "-", rank);
      VLM_CHECK(MakeDirectories(PosixFileSystem(), mine.run_folder).ok(), "make a run folder");
      LocalLink link(mine, meeting, state_->transport.get(), run);
      absl::StatusOr<spec::Stage> parsed = spec::StageFromJson(mine.stage_json);
      if (!parsed.ok()) {
        statuses[static_cast<size_t>(rank)] = parsed.status();
        return;
      }
      if (run.stop_after_save > 0) {
        auto& settings = std::get<spec::TrainingSettings>(parsed->settings);
        VLM_CHECK(run.stop_after_save % static_cast<uint64_t>(settings.checkpoint.every) == 0, "not a saved step");
      }
      const StageContext context = {&link.assignment(), &*parsed,           &link, &client, run.files,
                                    RealClock(),        run.stop_after_save};
      statuses[static_cast<size_t>(rank)] = trainer::RunStage(context);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  for (const absl::Status& status : statuses) VLM_RETURN_IF_ERROR(status);
  if (!state_->shards.failed().empty()) return absl::InternalError("a shard failed: " + state_->shards.failed());
  if (run.stop_after_save > 0 || !run.shards.empty()) return absl::OkStatus();
  const std::string kind(spec::StageKindName(stage->kind));
  VLM_ASSIGN_OR_RETURN(const checkpoint::Artifact artifact,
                       client.CommitArtifact(assignment.stage_uid, assignment.fence, kind));
  state_->artifacts[name] = {name, kind, artifact.folder, artifact.digest};
  return absl::OkStatus();
}

absl::Status LocalJob::RunAll(const StageRun& run) {
  for (const spec::Stage& stage : state_->job.stages) {
    StageRun one = run;
    one.world = std::clamp(run.world, stage.ranks.min, stage.ranks.max);
    VLM_RETURN_IF_ERROR(Annotate(RunStage(stage.name, one), stage.name));
  }
  return absl::OkStatus();
}

}  // namespace vlm::trainer
