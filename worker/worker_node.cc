#include "worker/worker_node.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/clock.h"
#include "base/crash_point.h"
#include "base/file_system.h"
#include "base/mutex.h"
#include "base/stoppable_executor.h"
#include "rpc/grpc_channel.h"
#include "rpc/grpc_server.h"
#include "rpc/token.h"
#include "worker/call_relay.h"
#include "worker/core/worker.h"
#include "worker/device_probe.h"
#include "worker/memory_kills.h"
#include "worker/persistent_stream.h"
#include "worker/process_supervisor.h"
#include "worker/rank_environment.h"
#include "worker/root_check.h"
#include "worker/slot_cpus.h"
#include "worker/state_dir.h"
#include "worker/telemetry_shipper.h"
#include "worker/trainer_service.h"

namespace vlm::worker {
namespace {

constexpr uint32_t kProtocol = 1;
constexpr size_t kSessionMessageBytesMax = 256 << 10;
constexpr size_t kTelemetryMessageBytesMax = 128 << 10;  // chunks of 64 KiB and their frame
constexpr absl::Duration kMeasureInterval = absl::Seconds(5);
constexpr char kSessionMethod[] = "/vlm.v1.WorkerService/Session";

uint64_t HashOf(const std::string& text) {
  uint64_t hash = 0;
  for (const char c : text) hash = Mix64(hash ^ static_cast<unsigned char>(c));
  return hash;
}

}  // namespace

// All members below `executor_` belong to its thread once Start has run.
class WorkerNode::Impl {
 public:
  Impl(WorkerNodeOptions options, WorkerMetrics* metrics) : options_(std::move(options)), metrics_(metrics) {}

  ~Impl() {
    if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
    executor_->Stop();
    disk_->Stop();
    supervisor_.reset();  // no events after this
    telemetry_.reset();
    relay_.reset();
    session_.reset();
  }

  absl::Status Prepare() {
    if (access(options_.trainer.c_str(), X_OK) != 0) {
      return absl::NotFoundError("trainer program is missing or not executable: " + options_.trainer);
    }
    VLM_ASSIGN_OR_RETURN(state_, StateDir::Open(options_.state_dir, options_.hostname));
    VLM_ASSIGN_OR_RETURN(locks_, DeviceLocks::Take(options_.gpu_lock_folder, options_.devices));
    VLM_RETURN_IF_ERROR(Sweep());
    VLM_ASSIGN_OR_RETURN(supervisor_, ProcessSupervisor::Create());
    const rpc::Metadata bearer = rpc::BearerMetadata(options_.token);
    VLM_ASSIGN_OR_RETURN(session_channel_, rpc::NewGrpcChannel({.address = options_.coordinator,
                                                                .metadata = bearer,
                                                                .message_bytes_max = kSessionMessageBytesMax}));
    VLM_ASSIGN_OR_RETURN(telemetry_channel_, rpc::NewGrpcChannel({.address = options_.coordinator,
                                                                  .metadata = bearer,
                                                                  .message_bytes_max = kTelemetryMessageBytesMax}));
    rpc::Metadata for_ranks = bearer;
    for_ranks[rpc::kNodeIdKey] = state_->node_id();
    VLM_ASSIGN_OR_RETURN(relay_channel_, rpc::NewGrpcChannel({.address = options_.coordinator, .metadata = for_ranks}));
    VLM_ASSIGN_OR_RETURN(WorkerOptions core, CoreOptions());
    core_ = std::make_unique<Worker>(std::move(core));
    MakeParts();
    VLM_ASSIGN_OR_RETURN(std::vector<StoredCall> calls, state_->LoadCalls());
    VLM_ASSIGN_OR_RETURN(server_,
                         rpc::GrpcServer::Create({.address = "unix:" + state_->socket_path()}, trainers_->Registry()));
    executor_->Post([this, calls = std::move(calls)]() mutable { Start(std::move(calls)); });
    return absl::OkStatus();
  }

  void RequestShutdown() {
    executor_->Post([this] { Feed(ShutdownRequested{}); });
  }

  bool WaitUntilFinishedFor(absl::Duration timeout) {
    MutexLock lock(&mutex_);
    if (!finished_ && timeout > absl::ZeroDuration()) changed_.WaitFor(&mutex_, timeout);
    return finished_;
  }

  const std::string& node_id() const { return state_->node_id(); }

 private:
  struct Running {
    RankLabels labels;
    int pid = 0;
    bool signalled = false;  // by this worker
  };

  // What an earlier incarnation left running, after its SIGKILL: no rank of ours may live beside the new ones.
  absl::Status Sweep() {
    VLM_ASSIGN_OR_RETURN(const std::vector<ProcessName> processes, state_->LoadProcesses());
    for (const ProcessName& process : processes) {
      VLM_ASSIGN_OR_RETURN(const bool killed, KillLeftover(process));
      if (killed) options_.note("killed a rank of an earlier worker: pid " + std::to_string(process.pid));
      VLM_RETURN_IF_ERROR(state_->RemoveProcess(process.pid));
    }
    VLM_RETURN_IF_ERROR(RemoveTree(PosixFileSystem(), state_->run_root()));
    return MakeDirectories(PosixFileSystem(), state_->run_root());
  }

  absl::StatusOr<WorkerOptions> CoreOptions() {
    WorkerOptions core;
    v1::Hello& hello = core.identity;
    hello.set_node_id(state_->node_id());
    hello.set_state_uuid(state_->state_uuid());
    hello.set_incarnation(state_->incarnation());
    hello.set_epoch_seen(state_->epoch());
    hello.set_boot_id(ReadBootId());
    hello.set_protocol_min(kProtocol);
    hello.set_protocol_max(kProtocol);
    for (const v1::Device& device : options_.devices) *hello.add_devices() = device;
    hello.set_memory_bytes(ReadMemoryBytes());
    hello.set_build(options_.build);
    hello.set_hostname(options_.hostname);
    VLM_ASSIGN_OR_RETURN(core.stored_results, state_->LoadResults());
    core.data_roots = options_.data_roots;
    core.run_root = state_->run_root();
    core.frozen_after = options_.frozen_after;
    return core;
  }

  void MakeParts() {
    const RngKey jitter{HashOf(state_->state_uuid()) + state_->incarnation()};
    relay_ = std::make_unique<CallRelay>(CallRelay::Parts{
        .channel = relay_channel_.get(),
        .executor = executor_,
        .disk = disk_,
        .state = state_.get(),
        .metrics = metrics_,
        .clock = RealClock(),
        .jitter = jitter.Derive("relay"),
        .unkept = [this](const absl::Status& why) { NoteFailure(why, "keep a rank's call on disk"); }});
    trainers_ = std::make_unique<TrainerService>(
        executor_, relay_.get(),
        TrainerService::Callbacks{
            .received = [this](const RankKey& rank, v1::AttachRequest message) { OnTrainer(rank, std::move(message)); },
            .detached = [this](const RankKey& rank) { Feed(TrainerDetached{rank}); },
            .leased = [this](const RankKey& rank,
                             std::vector<v1::HeldShard> shards) { Feed(ShardsLeased{rank, std::move(shards)}); },
            .released = [this](const v1::HeldShard& shard) { Feed(ShardReleased{shard}); }});
    session_ = std::make_unique<PersistentStream>(
        session_channel_.get(), executor_, kSessionMethod, jitter.Derive("session"),
        PersistentStream::Callbacks{.opened = [this] { Feed(SessionOpened{}); },
                                    .received = [this](const std::string& bytes) { OnResponse(bytes); },
                                    .lost = [this](const std::string& reason) { Feed(SessionLost{reason}); }});
    telemetry_ = std::make_unique<TelemetryShipper>(TelemetryShipper::Parts{.channel = telemetry_channel_.get(),
                                                                            .node_id = state_->node_id(),
                                                                            .log_root = state_->log_root(),
                                                                            .metrics = metrics_,
                                                                            .jitter = jitter.Derive("telemetry"),
                                                                            .note = options_.note});
  }

  void Start(std::vector<StoredCall> calls) {
    telemetry_->Start();
    relay_->Resume(std::move(calls));
    Carry(core_->Start(RealClock()->Monotonic()));
    Measure();
    Arm();
  }

  void Measure() {
    ReadMemoryKills();
    const absl::StatusOr<uint64_t> free = PosixFileSystem()->FreeBytes(options_.state_dir);
    if (free.ok()) Feed(DiskMeasured{*free});
    executor_->PostAfter(kMeasureInterval, [this] { Measure(); });
  }

  void ReadMemoryKills() { memory_kills_.Read(RealClock()->Monotonic(), ReadOutOfMemoryKills(options_.memory_events)); }

  void OnResponse(const std::string& bytes) {
    v1::SessionResponse message;
    if (!message.ParseFromString(bytes)) {
      session_->Restart();
      Feed(SessionLost{"a message of the coordinator does not parse"});
      return;
    }
    if (message.has_welcome()) telemetry_->SetCredit(message.welcome().telemetry_credit_bytes());
    Feed(FromCoordinator{std::move(message)});
    if (core_->connected()) session_->Confirm();
  }

  void OnTrainer(const RankKey& rank, v1::AttachRequest message) {
    if (message.has_metrics()) {
      telemetry_->Points(rank, std::move(*message.mutable_metrics()));
      return;
    }
    const auto running = running_.find(rank);
    if (message.has_beat() && running != running_.end()) metrics_->RankBeat(running->second.labels, message.beat());
    Feed(FromTrainer{rank, std::move(message)});
  }

  // Outputs may lead to inputs (a spawn that fails at once); those wait until the outputs before are carried out.
  void Feed(Input input) {
    inputs_.push_back(std::move(input));
    if (feeding_) return;
    feeding_ = true;
    while (!inputs_.empty()) {
      const Input next = std::move(inputs_.front());
      inputs_.erase(inputs_.begin());
      Carry(core_->Handle(RealClock()->Monotonic(), next));
    }
    feeding_ = false;
    if (connected_ != core_->connected()) {
      connected_ = core_->connected();
      metrics_->SessionChanged(connected_);
      options_.note(connected_ ? "connected to the coordinator" : "not connected to the coordinator");
    }
    metrics_->ResultsWaiting(core_->results_waiting());
    Arm();
  }

  // One timer at a time matters: the earliest.
  void Arm() {
    const absl::Duration wake = core_->NextWake();
    if (wake == absl::InfiniteDuration() || wake >= armed_) return;
    armed_ = wake;
    const absl::Duration delay = std::max(wake - RealClock()->Monotonic(), absl::ZeroDuration());
    executor_->PostAfter(delay, [this, wake] {
      if (armed_ == wake) armed_ = absl::InfiniteDuration();
      Feed(TimePassed{});
    });
  }

  void Carry(std::vector<Output> outputs) {
    for (Output& output : outputs) std::visit([this](auto& what) { Do(what); }, output);
  }

  void Do(OpenSession&) { session_->Open(); }
  void Do(CloseSession& close) {
    options_.note("closing the session: " + close.reason);
    session_->Restart();
  }
  void Do(SendToCoordinator& send) { session_->Send(send.message.SerializeAsString()); }
  void Do(SendToTrainer& send) { trainers_->Send(send.rank, send.message); }
  void Do(Note& note) { options_.note(note.text); }
  void Do(SignalRank& signal) {
    for (auto& [rank, running] : running_) {
      if (running.pid == signal.pid) running.signalled = true;
    }
    supervisor_->Signal(signal.pid, signal.signal);
  }

  void Do(StoreEpoch& store) {
    disk_->Post([this, epoch = store.epoch] { NoteFailure(state_->StoreEpoch(epoch), "store the epoch"); });
  }
  void Do(StoreResult& store) {
    disk_->Post([this, rank = store.rank, result = store.result] {
      CrashPoint("result.known");
      // A full disk must not hide the end of a rank from the coordinator: it is reported all the same.
      NoteFailure(state_->StoreResult(result), "store the result of " + rank.ToString());
      CrashPoint("result.stored");
      executor_->Post([this, rank] { Feed(ResultStored{rank}); });
    });
    const auto running = running_.find(store.rank);
    if (running == running_.end()) return;
    metrics_->RankEnded(running->second.labels, store.result.failure());
    running_.erase(running);
  }
  void Do(RemoveResult& remove) {
    disk_->Post([this, rank = remove.rank] { NoteFailure(state_->RemoveResult(rank), "remove a result"); });
  }
  void Do(ForgetRank& forget) {
    trainers_->Forget(forget.rank);
    telemetry_->End(forget.rank);
    disk_->Post([this, folder = RunFolder(state_->run_root(), forget.rank)] {
      NoteFailure(RemoveTree(PosixFileSystem(), folder), "remove a rank's folder");
    });
  }
  void Do(ReadNonce& read) {
    disk_->Post([this, check = read.check] {
      const absl::Status status = CheckRoot(options_.artifact_roots, check.root(), check.nonce_file(), check.nonce());
      std::string error = status.ok() ? std::string() : status.ToString();
      executor_->Post([this, root = check.root(), error = std::move(error)] { Feed(RootRead{root, error}); });
    });
  }
  void Do(Finish&) {
    MutexLock lock(&mutex_);
    finished_ = true;
    changed_.NotifyAll();
  }

  // Folders are made durably: a slow disk must not hold up the thread that carries beats. A rank that is stopped
  // meanwhile is started all the same, and its RankSpawned leads to the signal.
  void Do(SpawnRank& spawn) {
    disk_->Post([this, spawn = std::move(spawn)] {
      const absl::Status made = MakeDirectories(PosixFileSystem(), RunFolder(state_->run_root(), spawn.rank));
      executor_->Post([this, spawn, made] { StartRank(spawn, made); });
    });
  }

  void StartRank(const SpawnRank& spawn, const absl::Status& folder_made) {
    const absl::StatusOr<std::string> token = folder_made.ok() ? rpc::NewToken() : folder_made;
    if (!token.ok()) {
      Feed(RankSpawnFailed{spawn.rank, token.status().ToString()});
      return;
    }
    trainers_->Expect(spawn.rank, *token, spawn.spec.stage_uid(), spawn.spec.pool());
    Running& running = running_[spawn.rank];
    running.labels = {
        .job_id = spawn.spec.job_id(), .stage = spawn.spec.stage(), .fence = spawn.rank.fence, .rank = spawn.rank.rank};
    telemetry_->Begin(spawn.rank, running.labels);
    metrics_->RankStarted(running.labels);
    supervisor_->Start({.program = options_.trainer,
                        .arguments = {},
                        .environment = RankEnvironment({.passed_on = options_.environment,
                                                        .socket = state_->socket_path(),
                                                        .token = *token,
                                                        .worker_pid = getpid(),
                                                        .guard_fd = ProcessSupervisor::kGuardDescriptor,
                                                        .rank = spawn.rank,
                                                        .device = spawn.device}),
                        .cpus = SlotCpus(options_.cpus, options_.devices, spawn.device)},
                       Events(spawn.rank));
  }

  // Run on the supervisor's thread; what they need of this object is thread-safe.
  ProcessEvents Events(const RankKey& rank) {
    return {.started =
                [this, rank](int pid) {
                  const absl::StatusOr<ProcessName> name = NameProcess(pid);
                  executor_->Post([this, rank, pid, name] {
                    if (name.ok()) {
                      disk_->Post([this, name = *name] { NoteFailure(state_->StoreProcess(name), "store a process"); });
                    }
                    if (const auto running = running_.find(rank); running != running_.end()) running->second.pid = pid;
                    Feed(RankSpawned{rank, pid});
                  });
                },
            .failed =
                [this, rank](const absl::Status& status) {
                  executor_->Post([this, rank, error = status.ToString()] { Feed(RankSpawnFailed{rank, error}); });
                },
            .output = [this, rank](std::string bytes) { telemetry_->Output(rank, std::move(bytes)); },
            .exited =
                [this, rank](int exit_code, int signal) {
                  executor_->Post([this, rank, exit_code, signal] { OnExit(rank, exit_code, signal); });
                }};
  }

  void OnExit(const RankKey& rank, int exit_code, int signal) {
    ReadMemoryKills();
    bool oom_killed = false;
    if (const auto running = running_.find(rank); running != running_.end()) {
      const bool by_another = signal == SIGKILL && !running->second.signalled;
      oom_killed = by_another && memory_kills_.Take(RealClock()->Monotonic());
      disk_->Post([this, pid = running->second.pid] { NoteFailure(state_->RemoveProcess(pid), "remove a process"); });
    }
    Feed(RankReaped{.rank = rank, .exit_code = exit_code, .signal = signal, .oom_killed = oom_killed});
  }

  void NoteFailure(const absl::Status& status, const std::string& action) {
    if (!status.ok()) options_.note("could not " + action + ": " + status.ToString());
  }

  const WorkerNodeOptions options_;
  WorkerMetrics* const metrics_;
  Mutex mutex_;
  CondVar changed_;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;

  std::unique_ptr<StateDir> state_;
  std::unique_ptr<DeviceLocks> locks_;
  std::unique_ptr<rpc::Channel> session_channel_;
  std::unique_ptr<rpc::Channel> telemetry_channel_;
  std::unique_ptr<rpc::Channel> relay_channel_;
  std::unique_ptr<ProcessSupervisor> supervisor_;
  const std::shared_ptr<StoppableExecutor> disk_ = std::make_shared<StoppableExecutor>("disk");
  const std::shared_ptr<StoppableExecutor> executor_ = std::make_shared<StoppableExecutor>("worker");
  std::unique_ptr<Worker> core_;
  std::unique_ptr<CallRelay> relay_;
  std::unique_ptr<TrainerService> trainers_;
  std::unique_ptr<PersistentStream> session_;
  std::unique_ptr<TelemetryShipper> telemetry_;
  std::unique_ptr<rpc::GrpcServer> server_;
  std::map<RankKey, Running> running_;
  MemoryKills memory_kills_{ReadOutOfMemoryKills(options_.memory_events)};
  std::vector<Input> inputs_;
  bool feeding_ = false;
  bool connected_ = false;
  absl::Duration armed_ = absl::InfiniteDuration();
};

WorkerNode::WorkerNode(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
WorkerNode::~WorkerNode() = default;

absl::StatusOr<std::unique_ptr<WorkerNode>> WorkerNode::Create(WorkerNodeOptions options, WorkerMetrics* metrics) {
  auto impl = std::make_unique<Impl>(std::move(options), metrics);
  VLM_RETURN_IF_ERROR(impl->Prepare());
  return std::unique_ptr<WorkerNode>(new WorkerNode(std::move(impl)));
}

void WorkerNode::RequestShutdown() { impl_->RequestShutdown(); }

void WorkerNode::WaitUntilFinished() {
  while (!impl_->WaitUntilFinishedFor(absl::Hours(1))) {
  }
}

bool WorkerNode::WaitUntilFinishedFor(absl::Duration timeout) { return impl_->WaitUntilFinishedFor(timeout); }

const std::string& WorkerNode::node_id() const { return impl_->node_id(); }

}  // namespace vlm::worker
