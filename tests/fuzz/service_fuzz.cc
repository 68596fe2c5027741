// The coordinator's services behind their handlers: any bytes to any method and stream, in front of the real decision
// loop, over a simulated store; logs go to a real folder.
//
// Every unary call is answered, at most once; a stream that is sent nonsense is closed or lives on; whatever names a
// message holds, logs stay in their folder; and the service still answers at the end.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"
#include "base/random.h"
#include "coordinator/artifact_roots.h"
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
#include "rpc/token.h"
#include "store/simulated_meta_store.h"
#include "telemetry/registry.h"
#include "tests/fuzz/drained_executor.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/message_builder.h"
#include "tests/fuzz/temporary_folder.h"
#include "vlm/v1/node.pb.h"

namespace vlm::coordinator {
namespace {

using fuzz::FuzzInput;

constexpr int kOperationsMax = 24;
constexpr int kFlushes = 3;  // a call's way: decided, read from the store, answered
constexpr char kJob[] =
    "metadata: {name: a}\n"
    "spec:\n"
    "  stages:\n"
    "    - {name: g, kind: generate, generate: {splits: [{name: captions, samples: 10}]}}\n";

std::vector<std::string> Families() {
  std::vector<std::string> families = AllFamilies();
  families.emplace_back(kShellFamily);
  families.emplace_back(kPointFamily);
  return families;
}

class CountingStream final : public rpc::Stream {
 public:
  bool Send(std::string) override {
    MutexLock lock(&mutex_);
    return !closed_;
  }
  void Close(absl::Status) override {
    MutexLock lock(&mutex_);
    closed_ = true;
  }
  bool closed() const {
    MutexLock lock(&mutex_);
    return closed_;
  }

 private:
  mutable Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

class FuzzedService {
 public:
  explicit FuzzedService(FuzzInput* input) : input_(*input), store_(Families()), metrics_(&registry_) {
    CoordinatorOptions options;
    options.default_artifacts = "/artifacts";
    options.random_bytes = [this](size_t count) {
      std::string bytes;
      while (bytes.size() < count) bytes += static_cast<char>(rng_.Below(256));
      return bytes;
    };
    core_ = std::make_unique<Coordinator>(std::move(options));
    absl::StatusOr<Outputs> started = core_->Start({executor_.Monotonic(), executor_.Wall()});
    VLM_CHECK(started.ok(), started.status().ToString());
    MakeServices();
    loop_->Start(*std::move(started));
    watch_->Start();
    tail_->Start();
  }

  ~FuzzedService() {
    loop_->Stop();
    executor_.Drop();
  }

  void Run() {
    for (int operation = 0; operation < kOperationsMax && !input_.empty(); ++operation) Operate();
    executor_.Advance(absl::Seconds(10));
    Call("/vlm.v1.NodeService/ListNodes", "");
    VLM_CHECK(last_.ok(), last_.ToString());
    const auto kept = PosixFileSystem()->List(folder_.path());
    VLM_CHECK(kept.ok() && kept->size() <= 1, "a log was written outside its folder");
  }

 private:
  void MakeServices() {
    DecisionLoopDeps deps;
    deps.core = core_.get();
    deps.store = &store_;
    deps.clock = &executor_;
    deps.metrics = &metrics_;
    deps.on_events = [this](const std::vector<v1::Event>& events) { watch_->OnEvents(events); };
    deps.perform = [this](const Effect& effect) { Perform(effect); };
    deps.on_store_failure = [](const absl::Status& status) { VLM_CHECK(false, status.ToString()); };
    loop_ = std::make_unique<DecisionLoop>(DecisionLoopOptions(), std::move(deps));
    telemetry_ = std::make_unique<TelemetryStore>(
        LogStoreOptions{.root = folder_.path() + "/logs", .attempt_bytes_max = 4096, .job_bytes_max = 8192},
        PointStoreOptions{.points_per_job_max = 100}, &store_, &executor_, &executor_, &metrics_);
    workers_ = std::make_unique<WorkerService>(loop_.get(), telemetry_.get(), &metrics_);
    watch_ = std::make_unique<EventWatch>(EventWatchOptions{.store_uuid = std::string(16, 's')}, &store_, loop_.get(),
                                          &executor_, &metrics_);
    tail_ = std::make_unique<LogTail>(LogTailOptions(), telemetry_.get(), loop_.get(), &executor_, &metrics_);
    telemetry_->OnLog([this](const LogKey& key) { tail_->OnLog(key); });
    jobs_ = std::make_unique<JobService>(JobServiceDeps{.loop = loop_.get(),
                                                        .store = &store_,
                                                        .points = telemetry_->points(),
                                                        .roots = &roots_,
                                                        .space = &space_,
                                                        .parser = &executor_,
                                                        .reader = &executor_,
                                                        .clock = &executor_,
                                                        .metrics = &metrics_});
    jobs_->Register(&services_);
    watch_->Register(&services_);
    tail_->Register(&services_);
    workers_->Register(&services_);
    RegisterDataService(loop_.get(), &services_);
    RegisterNodeService(loop_.get(), &services_);
    for (const auto& [name, handler] : services_.unary) methods_.push_back(name);
    for (const auto& [name, handler] : services_.streams) stream_methods_.push_back(name);
  }

  // On the loop's thread. Effects on the checkpoint service stay unanswered, as when it is away.
  void Perform(const Effect& effect) {
    if (const auto* send = std::get_if<SendToWorker>(&effect)) workers_->Perform(*send);
    if (const auto* close = std::get_if<CloseSession>(&effect)) workers_->Perform(*close);
    if (const auto* nonce = std::get_if<WriteNonce>(&effect)) {
      loop_->Tell(NonceWritten{nonce->root, "nonce", "bytes", absl::OkStatus()});
    }
  }

  // What was posted and decided so far has been carried out.
  void Flush() {
    for (int i = 0; i < kFlushes; ++i) {
      executor_.RunDue();
      const absl::StatusOr<int> seen = loop_->ReadAndWait<int>(
          [](const Coordinator& core) { return static_cast<int>(core.epoch()); }, absl::Minutes(5));
      VLM_CHECK(seen.ok(), seen.status().ToString());
    }
    executor_.RunDue();
  }

  void Call(const std::string& method, const std::string& request) {
    struct Answer {
      Mutex mutex;
      int times ABSL_GUARDED_BY(mutex) = 0;
      absl::Status status ABSL_GUARDED_BY(mutex);
    };
    auto answer = std::make_shared<Answer>();
    const rpc::CallContext context{{{rpc::kNodeIdKey, "node-0"}}, absl::Seconds(10), "fuzz"};
    services_.unary.at(method)(context, request, [answer](const absl::StatusOr<std::string>& bytes) {
      MutexLock lock(&answer->mutex);
      VLM_CHECK(++answer->times == 1, "a call was answered twice");
      answer->status = bytes.status();
    });
    Flush();
    MutexLock lock(&answer->mutex);
    VLM_CHECK(answer->times == 1, "a call was not answered: " + method);
    VLM_CHECK(answer->status.ok() || !answer->status.message().empty(), "a call was refused without a reason");
    last_ = answer->status;
  }

  template <typename Message>
  std::string Bytes() {
    Message message;
    if (!ReadMessage(known_, &input_, &message)) return std::string(input_.Text());
    return message.SerializeAsString();
  }

  std::string RequestOf(const std::string& method) {
    const auto is = [&](const char* name) { return method.ends_with(std::string("/") + name); };
    if (is("SubmitJob")) return Bytes<v1::SubmitJobRequest>();
    if (is("GetJob")) return Bytes<v1::GetJobRequest>();
    if (is("ListJobs")) return Bytes<v1::ListJobsRequest>();
    if (is("CancelJob")) return Bytes<v1::CancelJobRequest>();
    if (is("RetryJob")) return Bytes<v1::RetryJobRequest>();
    if (is("QueryMetrics")) return Bytes<v1::QueryMetricsRequest>();
    if (is("LeaseShards")) return Bytes<v1::LeaseShardsRequest>();
    if (is("CommitShard")) return Bytes<v1::CommitShardRequest>();
    if (is("FailShard")) return Bytes<v1::FailShardRequest>();
    if (is("ListShards")) return Bytes<v1::ListShardsRequest>();
    if (is("ListNodes")) return Bytes<v1::ListNodesRequest>();
    if (is("WatchEvents")) return Bytes<v1::WatchEventsRequest>();
    if (is("TailLogs")) return Bytes<v1::TailLogsRequest>();
    if (is("ShipTelemetry")) return Bytes<v1::ShipTelemetryRequest>();
    VLM_CHECK(is("Session"), "a method that no input reaches: " + method);
    return Bytes<v1::SessionRequest>();
  }

  void Submit() {
    v1::SubmitJobRequest request;
    request.set_job_yaml(kJob);
    request.set_request_id("request");
    Call("/vlm.v1.JobService/SubmitJob", request.SerializeAsString());
    v1::ListJobsResponse jobs = *loop_->ReadAndWait<v1::ListJobsResponse>(
        [](const Coordinator& core) { return *core.ListJobs({}); }, absl::Minutes(5));
    if (jobs.jobs_size() > 0) known_.texts["job_id"] = {jobs.jobs(0).job_id(), "..", "a/b"};
  }

  void OpenStream() {
    const std::string& method = input_.Pick(stream_methods_);
    auto stream = std::make_shared<CountingStream>();
    const std::shared_ptr<rpc::StreamReceiver> receiver = services_.streams.at(method)({}, stream);
    const size_t messages = input_.Below(4);
    for (size_t i = 0; i < messages; ++i) {
      receiver->OnMessage(RequestOf(method));
      Flush();
    }
    // Some stay open for the rest of the input.
    if (input_.Byte() % 2 == 0) {
      receiver->OnClosed(absl::OkStatus());
    } else {
      open_.push_back(receiver);
    }
  }

  void Operate() {
    switch (input_.Below(8)) {
      case 0:
        return Submit();
      case 1:
        return executor_.Advance(absl::Milliseconds(250 * static_cast<int64_t>(input_.Byte())));
      case 2:
      case 3:
      case 4:
        return OpenStream();
      default: {
        const std::string& method = input_.Pick(methods_);
        return Call(method, RequestOf(method));
      }
    }
  }

  FuzzInput& input_;
  const fuzz::TemporaryFolder folder_;
  Rng rng_{RngKey{7}};
  fuzz::DrainedExecutor executor_;
  telemetry::MetricRegistry registry_;
  store::SimulatedMetaStore store_;
  CoordinatorMetrics metrics_;
  const ArtifactRoots roots_{PosixFileSystem(), {"/artifacts"}, "0011"};
  const StoreSpace space_{PosixFileSystem(), {.folder = folder_.path(), .floor_bytes = 0, .ballast_bytes = 0}};
  std::unique_ptr<Coordinator> core_;
  std::unique_ptr<TelemetryStore> telemetry_;
  std::unique_ptr<WorkerService> workers_;
  std::unique_ptr<EventWatch> watch_;
  std::unique_ptr<LogTail> tail_;
  std::unique_ptr<JobService> jobs_;
  std::unique_ptr<DecisionLoop> loop_;
  rpc::ServiceRegistry services_;
  std::vector<std::string> methods_, stream_methods_;
  std::vector<std::shared_ptr<rpc::StreamReceiver>> open_;
  absl::Status last_;
  fuzz::KnownValues known_ = {{{"node_id", {"node-0", "node-1"}},
                               {"job_yaml", {kJob}},
                               {"request_id", {"request", "other"}},
                               {"stage", {"g", "..", "a/b"}},
                               {"series", {"loss", "../x", "LOSS"}},
                               {"page_token", {"1", "-1", "x"}}},
                              {{"fence", {1, 0}}, {"rank", {0, 1}}, {"offset", {0, 1, 100}}, {"step", {1, 2, 3}}}};
};

}  // namespace
}  // namespace vlm::coordinator

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vlm::fuzz::FuzzInput input(data, size);
  vlm::coordinator::FuzzedService(&input).Run();
  return 0;
}

std::vector<std::string> vlm::fuzz::Seeds() {
  const std::string submit(1, '\0');
  std::vector<std::string> seeds = {submit, submit + submit};
  Rng rng(RngKey{19});
  for (int i = 0; i < 16; ++i) {
    std::string seed = submit;
    for (int byte = 0; byte < 250; ++byte) seed += static_cast<char>(rng.Below(256));
    seeds.push_back(std::move(seed));
  }
  return seeds;
}
