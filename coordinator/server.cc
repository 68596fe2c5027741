#include "coordinator/server.h"

#include <filesystem>
#include <utility>
#include <variant>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/entropy.h"
#include "base/file_system.h"
#include "base/stoppable_executor.h"
#include "coordinator/artifact_roots.h"
#include "coordinator/checkpoint_link.h"
#include "coordinator/coordinator_metrics.h"
#include "coordinator/data_service.h"
#include "coordinator/decision_loop.h"
#include "coordinator/event_watch.h"
#include "coordinator/job_service.h"
#include "coordinator/log_tail.h"
#include "coordinator/server_files.h"
#include "coordinator/store_space.h"
#include "coordinator/telemetry_store.h"
#include "coordinator/worker_service.h"
#include "rpc/grpc_server.h"
#include "rpc/token.h"
#include "store/rocksdb_meta_store.h"
#include "telemetry/exposer.h"
#include "telemetry/log.h"

namespace vlm::coordinator {
namespace {

constexpr absl::Duration kSampleTimeout = absl::Seconds(1);  // a scrape shows old gauges when the thread is busy
constexpr char kServerFile[] = "/coordinator.json";

std::vector<rpc::AccessRule> AccessRules() {
  std::vector<rpc::AccessRule> rules = {
      {"/vlm.v1.JobService/", {"user"}},          {"/vlm.v1.NodeService/", {"user"}},
      {"/vlm.v1.WorkerService/", {"worker"}},     {"/vlm.v1.DataService/", {"worker"}},
      {"/vlm.v1.CheckpointService/", {"worker"}},
  };
  for (const char* method : {"GetStep", "ListSteps", "GetLatest", "VerifyStep", "DeleteStep"}) {
    rules.push_back({absl::StrCat("/vlm.v1.CheckpointService/", method), {"user", "worker"}});
  }
  return rules;
}

std::vector<std::string> StoreFamilies() {
  std::vector<std::string> families = AllFamilies();
  families.emplace_back(kShellFamily);
  families.emplace_back(kPointFamily);
  return families;
}

// Without "//", "/./", "/../" and a slash at the end: jobs and workers compare roots as text.
std::string Tidy(const std::string& path) {
  std::string tidy = std::filesystem::path(path).lexically_normal().string();
  if (tidy.size() > 1 && tidy.ends_with("/")) tidy.pop_back();
  return tidy;
}

bool ChoosesPort(const std::string& address) { return address.ends_with(":0"); }
std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

// With port 0, the address this state folder was served at before.
std::string Preferred(const std::string& address, const std::string& before) {
  return ChoosesPort(address) && !before.empty() && HostOf(before) == HostOf(address) ? before : address;
}

}  // namespace

class Server::Impl {
 public:
  explicit Impl(ServerOptions options) : options_(std::move(options)) {}
  ~Impl() { Stop(absl::ZeroDuration()); }

  absl::Status Start() {
    VLM_RETURN_IF_ERROR(PrepareFolders());
    VLM_RETURN_IF_ERROR(PrepareSpace());
    VLM_ASSIGN_OR_RETURN(
        store_, store::OpenRocksDbMetaStore({.path = options_.state_dir + "/db", .families = StoreFamilies()}));
    VLM_ASSIGN_OR_RETURN(store_uuid_, StoreUuid(store_.get()));
    roots_ = std::make_unique<ArtifactRoots>(files_, options_.artifact_roots, absl::BytesToHexString(store_uuid_));
    VLM_ASSIGN_OR_RETURN(Outputs started, StartCore());
    MakeLoop();
    VLM_RETURN_IF_ERROR(MakeServices());
    VLM_RETURN_IF_ERROR(Listen());
    loop_->Start(std::move(started));
    watch_->Start();
    tail_->Start();
    return WriteFiles();
  }

  void Stop(absl::Duration grace) {
    exposer_.reset();
    if (grpc_ != nullptr) grpc_->Shutdown(grace);
    if (loop_ != nullptr) loop_->Stop();
    parser_.Stop();
    reader_.Stop();
    telemetry_thread_.Stop();
    if (checkpoint_ != nullptr) checkpoint_->Stop();
  }

  const std::string& address() const { return addresses_.address; }
  const std::string& metrics_address() const { return addresses_.metrics_address; }

 private:
  absl::Status PrepareFolders() {
    if (options_.artifact_roots.empty()) {
      return absl::InvalidArgumentError("at least one --artifact-root is needed: jobs write beneath it");
    }
    for (const std::string& root : options_.artifact_roots) {
      if (!root.starts_with("/")) {
        return absl::InvalidArgumentError(absl::StrCat("--artifact-root must be an absolute path, got: ", root));
      }
      VLM_RETURN_IF_ERROR(MakeDirectories(files_, root));
    }
    VLM_RETURN_IF_ERROR(PrepareStateDir(files_, options_.state_dir));
    return MakeDirectories(files_, options_.state_dir + "/logs");
  }

  absl::Status PrepareSpace() {
    space_ = std::make_unique<StoreSpace>(files_, StoreSpaceOptions{.folder = options_.state_dir,
                                                                    .floor_bytes = options_.free_space_floor_bytes,
                                                                    .ballast_bytes = options_.ballast_bytes});
    VLM_ASSIGN_OR_RETURN(const bool was_full, space_->Prepare());
    if (was_full) {
      telemetry::Log(telemetry::LogLevel::kWarning,
                     "the disk of the state folder is nearly full; the reserve on it is given up, free more",
                     {{"folder", options_.state_dir}});
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Outputs> StartCore() {
    metrics_ = std::make_unique<CoordinatorMetrics>(&registry_);
    CoordinatorOptions core = options_.core;
    core.default_artifacts = options_.artifact_roots.front();
    core.random_bytes = [](size_t bytes) { return RandomBytes(bytes); };
    core_ = std::make_unique<Coordinator>(std::move(core));
    const absl::Duration now = clock_->Monotonic();
    for (const std::string& family : RestoredFamilies()) {
      absl::Status row;
      VLM_RETURN_IF_ERROR(store_->Scan(family, "", [&](std::string_view key, std::string_view value) {
        row = core_->AddRow(family, key, value);
        if (row.ok()) metrics_->Restored(family, key, value, now);
        return row.ok();
      }));
      VLM_RETURN_IF_ERROR(row);
    }
    return core_->Start({now, clock_->Wall()});
  }

  void MakeLoop() {
    DecisionLoopDeps deps;
    deps.core = core_.get();
    deps.store = store_.get();
    deps.clock = clock_;
    deps.metrics = metrics_.get();
    deps.on_events = [this](const std::vector<v1::Event>& events) { OnEvents(events); };
    deps.perform = [this](const Effect& effect) {
      std::visit([this](const auto& wanted) { Perform(wanted); }, effect);
    };
    deps.on_store_failure = options_.on_store_failure;
    loop_ = std::make_unique<DecisionLoop>(DecisionLoopOptions(), std::move(deps));
    registry_.BeforeScrape([this] { Sample(); });
  }

  absl::Status MakeServices() {
    CheckpointLinkOptions checkpoint;
    checkpoint.database = options_.state_dir + "/checkpoints";
    checkpoint.allowed_roots = options_.artifact_roots;
    checkpoint.tell = [this](Input input) { loop_->Tell(std::move(input)); };
    checkpoint.on_store_failure = options_.on_store_failure;
    VLM_ASSIGN_OR_RETURN(checkpoint_, CheckpointLink::Create(std::move(checkpoint), files_, clock_));
    telemetry_ =
        std::make_unique<TelemetryStore>(LogStoreOptions{.root = options_.state_dir + "/logs",
                                                         .job_bytes_max = options_.log_bytes_per_job_max,
                                                         .total_bytes_max = options_.log_bytes_max,
                                                         .job_ended = nullptr},  // the telemetry store knows the rows
                                         PointStoreOptions(), store_.get(), &telemetry_thread_, clock_, metrics_.get());
    workers_ = std::make_unique<WorkerService>(loop_.get(), telemetry_.get(), metrics_.get());
    EventWatchOptions watch;
    watch.store_uuid = store_uuid_;
    watch_ = std::make_unique<EventWatch>(std::move(watch), store_.get(), loop_.get(), &reader_, metrics_.get());
    tail_ = std::make_unique<LogTail>(LogTailOptions(), telemetry_.get(), loop_.get(), clock_, metrics_.get());
    telemetry_->OnLog([this](const LogKey& key) { tail_->OnLog(key); });
    jobs_ = std::make_unique<JobService>(JobServiceDeps{.loop = loop_.get(),
                                                        .store = store_.get(),
                                                        .points = telemetry_->points(),
                                                        .roots = roots_.get(),
                                                        .space = space_.get(),
                                                        .parser = &parser_,
                                                        .reader = &reader_,
                                                        .clock = clock_,
                                                        .metrics = metrics_.get()});
    return absl::OkStatus();
  }

  absl::Status Listen() {
    VLM_ASSIGN_OR_RETURN(const std::string user, rpc::ReadOrCreateTokenFile(options_.state_dir + "/user.token"));
    VLM_ASSIGN_OR_RETURN(const std::string worker, rpc::ReadOrCreateTokenFile(options_.state_dir + "/worker.token"));
    rpc::ServiceRegistry services;
    jobs_->Register(&services);
    watch_->Register(&services);
    tail_->Register(&services);
    workers_->Register(&services);
    RegisterDataService(loop_.get(), &services);
    RegisterNodeService(loop_.get(), &services);
    checkpoint_->Register(loop_.get(), &services);
    services = rpc::RequireToken(std::move(services), {{"user", user}, {"worker", worker}}, AccessRules());

    const absl::StatusOr<ServerAddresses> before = ReadServerFile(files_, options_.state_dir + kServerFile);
    const ServerAddresses last = before.ok() ? *before : ServerAddresses();
    absl::StatusOr<std::unique_ptr<rpc::GrpcServer>> grpc =
        rpc::GrpcServer::Create({.address = Preferred(options_.address, last.address)}, services);
    if (absl::IsAlreadyExists(grpc.status()) && ChoosesPort(options_.address)) {
      grpc = rpc::GrpcServer::Create({.address = options_.address}, std::move(services));
    }
    if (!grpc.ok()) return grpc.status();
    grpc_ = *std::move(grpc);
    absl::StatusOr<std::unique_ptr<telemetry::Exposer>> exposer =
        telemetry::Exposer::Create(Preferred(options_.metrics_address, last.metrics_address), registry_);
    if (absl::IsAlreadyExists(exposer.status()) && ChoosesPort(options_.metrics_address)) {
      exposer = telemetry::Exposer::Create(options_.metrics_address, registry_);
    }
    if (!exposer.ok()) return exposer.status();
    exposer_ = *std::move(exposer);
    addresses_ = {grpc_->address(), exposer_->address()};
    return absl::OkStatus();
  }

  absl::Status WriteFiles() {
    VLM_RETURN_IF_ERROR(
        WriteServerFile(files_, options_.state_dir + kServerFile, options_.state_dir, addresses_, options_.version));
    if (options_.port_file.empty()) return absl::OkStatus();
    return WriteServerFile(files_, options_.port_file, options_.state_dir, addresses_, options_.version);
  }

  void OnEvents(const std::vector<v1::Event>& events) {
    for (const v1::Event& event : events) {
      telemetry::Log(telemetry::LogLevel::kInfo, event.kind(),
                     {{"job", event.job_id()},
                      {"stage", event.stage()},
                      {"fence", absl::StrCat(event.fence())},
                      {"reason", event.reason()}});
    }
    watch_->OnEvents(events);
  }

  void Perform(const SendToWorker& effect) { workers_->Perform(effect); }
  void Perform(const CloseSession& effect) { workers_->Perform(effect); }
  void Perform(const OpenAttempt& effect) { checkpoint_->Perform(effect); }
  void Perform(const CommitArtifact& effect) { checkpoint_->Perform(effect); }
  void Perform(const VerifyStep& effect) { checkpoint_->Perform(effect); }
  void Perform(const WriteNonce& effect) {
    reader_.Post([this, root = effect.root] {
      const absl::StatusOr<ArtifactRoots::Nonce> nonce = roots_->WriteNonce(root);
      NonceWritten answer{root, "", "", nonce.status()};
      if (nonce.ok()) {
        answer.nonce_file = nonce->file;
        answer.nonce = nonce->bytes;
      }
      loop_->Tell(std::move(answer));
    });
  }

  // Before a scrape, on the scraper's thread.
  void Sample() {
    struct Seen {
      Counts counts;
      std::map<std::string, absl::Duration> waited;
      std::vector<std::pair<std::pair<std::string, std::string>, v1::Progress>> progress;
    };
    const auto running = metrics_->RunningStages();
    const absl::StatusOr<Seen> seen = loop_->ReadAndWait<Seen>(
        [this, running](const Coordinator& core) {
          Seen result;
          result.counts = core.Count();
          result.waited = core.Waited(clock_->Monotonic());
          for (const auto& stage : running) {
            absl::StatusOr<v1::Progress> progress = core.GetProgress(stage.first, stage.second);
            if (progress.ok()) result.progress.emplace_back(stage, *std::move(progress));
          }
          return result;
        },
        kSampleTimeout);
    if (!seen.ok()) return;
    metrics_->Sample(seen->counts, seen->waited, loop_->waiting());
    for (const auto& [stage, progress] : seen->progress) metrics_->StageProgress(stage.first, stage.second, progress);
  }

  const ServerOptions options_;
  FileSystem* const files_ = PosixFileSystem();
  const Clock* const clock_ = RealClock();
  telemetry::MetricRegistry registry_;
  std::unique_ptr<CoordinatorMetrics> metrics_;
  std::unique_ptr<StoreSpace> space_;
  std::unique_ptr<store::MetaStore> store_;
  std::string store_uuid_;
  std::unique_ptr<ArtifactRoots> roots_;
  std::unique_ptr<Coordinator> core_;
  StoppableExecutor parser_{"parse"};  // one: with two cores, parsing must not starve deciding
  StoppableExecutor reader_{"read"};
  StoppableExecutor telemetry_thread_{"telemetry"};
  std::unique_ptr<DecisionLoop> loop_;
  std::unique_ptr<CheckpointLink> checkpoint_;
  std::unique_ptr<TelemetryStore> telemetry_;
  std::unique_ptr<WorkerService> workers_;
  std::unique_ptr<EventWatch> watch_;
  std::unique_ptr<LogTail> tail_;
  std::unique_ptr<JobService> jobs_;
  std::unique_ptr<rpc::GrpcServer> grpc_;
  std::unique_ptr<telemetry::Exposer> exposer_;
  ServerAddresses addresses_;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Create(ServerOptions options) {
  for (std::string& root : options.artifact_roots) root = Tidy(root);
  auto impl = std::make_unique<Impl>(std::move(options));
  VLM_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

const std::string& Server::address() const { return impl_->address(); }
const std::string& Server::metrics_address() const { return impl_->metrics_address(); }
void Server::Stop(absl::Duration grace) { impl_->Stop(grace); }

}  // namespace vlm::coordinator
