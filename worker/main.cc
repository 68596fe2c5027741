// vlm-worker: offers a machine's devices to the coordinator and runs ranks on them. Wiring only.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/crash_point.h"
#include "base/version.h"
#include "rpc/token.h"
#include "telemetry/exposer.h"
#include "telemetry/log.h"
#include "telemetry/registry.h"
#include "worker/device_probe.h"
#include "worker/registry_metrics.h"
#include "worker/worker_node.h"

namespace vlm::worker {
namespace {

constexpr int kExitUsage = 64;
constexpr int kExitFailed = 70;

// The only variables of ours that a trainer inherits. No credential is among them; the last one is set in proofs only.
constexpr const char* kPassedVariables[] = {
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", kCrashPointsVariable};

struct Flags {
  std::string coordinator;
  std::string token_file;
  std::string state_dir;
  std::string trainer;
  std::string metrics_address = "127.0.0.1:0";
  std::string memory_events;
  std::string log_level = "info";
  std::vector<std::string> data_roots;
  std::vector<std::string> artifact_roots;
  std::vector<int> cpus;
  int cpu_slots = 0;
  int threads_per_slot = 1;
  double frozen_after_seconds = 10;
};

std::string TextOf(const absl::Status& status) {
  const auto message = status.message();
  return std::string(message.data(), message.size());
}

// The program beside this one.
std::string DefaultTrainer() {
  std::array<char, 4096> path{};
  const ssize_t bytes = readlink("/proc/self/exe", path.data(), path.size() - 1);
  const std::string self(path.data(), bytes > 0 ? static_cast<size_t>(bytes) : 0);
  return self.substr(0, self.rfind('/') + 1) + "vlm-trainer";
}

std::vector<v1::Device> Devices(const Flags& flags) {
  if (flags.cpu_slots > 0) return CpuSlots(flags.cpu_slots, flags.threads_per_slot);
  std::vector<v1::Device> gpus = ProbeGpus("/proc/driver/nvidia", flags.threads_per_slot);
  if (!gpus.empty()) return gpus;
  const int processors = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return CpuSlots(std::max(1, processors / flags.threads_per_slot), flags.threads_per_slot);
}

absl::StatusOr<WorkerNodeOptions> MakeOptions(const Flags& flags) {
  WorkerNodeOptions options;
  options.coordinator = flags.coordinator;
  VLM_ASSIGN_OR_RETURN(options.token, rpc::ReadTokenFile(flags.token_file));
  options.state_dir = flags.state_dir;
  options.trainer = flags.trainer.empty() ? DefaultTrainer() : flags.trainer;
  options.devices = Devices(flags);
  options.data_roots = flags.data_roots;
  options.artifact_roots = flags.artifact_roots;
  options.cpus = flags.cpus;
  for (const char* name : kPassedVariables) {
    if (const char* value = std::getenv(name)) options.environment.push_back(std::string(name) + "=" + value);
  }
  options.memory_events = flags.memory_events;
  options.build = kVersion;
  std::array<char, 256> hostname{};
  if (gethostname(hostname.data(), hostname.size() - 1) == 0) options.hostname = hostname.data();
  options.frozen_after = absl::Seconds(flags.frozen_after_seconds);
  options.note = [](const std::string& text) { telemetry::Log(telemetry::LogLevel::kInfo, text); };
  return options;
}

// Blocks in `signals` until one arrives, then asks the node to end; a second one ends the process at once.
void EndOnSignal(const sigset_t& signals, WorkerNode* node) {
  int signal = 0;
  sigwait(&signals, &signal);
  telemetry::Log(telemetry::LogLevel::kInfo, "stopping", {{"signal", std::to_string(signal)}});
  node->RequestShutdown();
  std::thread([signals] {
    int second = 0;
    sigwait(&signals, &second);
    std::_Exit(kExitFailed);
  }).detach();
  node->WaitUntilFinished();
}

absl::Status Run(const Flags& flags) {
  // Blocked before any thread starts, so that only EndOnSignal receives them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  VLM_ASSIGN_OR_RETURN(const telemetry::LogLevel level, telemetry::ParseLogLevel(flags.log_level));
  telemetry::StartLog("vlm-worker", level);
  VLM_ASSIGN_OR_RETURN(WorkerNodeOptions options, MakeOptions(flags));
  const size_t devices = options.devices.size();
  telemetry::MetricRegistry registry;
  RegistryMetrics metrics(&registry, RealClock());
  // Before the node, which may be given ranks at once: a worker whose port is taken must not have begun.
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<telemetry::Exposer> exposer,
                       telemetry::Exposer::Create(flags.metrics_address, registry));
  VLM_ASSIGN_OR_RETURN(const std::unique_ptr<WorkerNode> node, WorkerNode::Create(std::move(options), &metrics));
  telemetry::Log(telemetry::LogLevel::kInfo, "worker started",
                 {{"node", node->node_id()},
                  {"devices", std::to_string(devices)},
                  {"coordinator", flags.coordinator},
                  {"metrics", exposer->address()}});
  std::printf("metrics http://%s/metrics\n", exposer->address().c_str());
  std::fflush(stdout);
  EndOnSignal(signals, node.get());
  telemetry::Log(telemetry::LogLevel::kInfo, "worker ended");
  return absl::OkStatus();
}

void AddOptions(CLI::App* app, Flags* flags) {
  app->add_option("--coordinator", flags->coordinator, "Address: 127.0.0.1:PORT or unix:/path");
  app->add_option("--token-file", flags->token_file, "File with the worker's token, mode 0600");
  app->add_option("--state-dir", flags->state_dir, "Folder of this worker's own; one per worker");
  app->add_option("--trainer", flags->trainer, "Path of vlm-trainer (default: beside this program)");
  app->add_option("--cpu-slots", flags->cpu_slots, "Offer this many CPU slots instead of GPUs")
      ->check(CLI::Range(1, 1024));
  app->add_option("--threads-per-slot", flags->threads_per_slot, "Compute threads of a rank")
      ->check(CLI::Range(1, 1024));
  app->add_option("--cpus", flags->cpus,
                  "Processors for ranks, as numbers separated by commas: each slot gets as many of its own as it has "
                  "threads, in this order; shared by all when there are too few (default: ranks are not pinned)")
      ->delimiter(',')
      ->check(CLI::Range(0, 1023));
  app->add_option("--data-root", flags->data_roots,
                  "Folder below which jobs may read data, repeatable; relative paths start at the first");
  app->add_option("--artifact-root", flags->artifact_roots, "Folder below which jobs may keep artifacts");
  app->add_option("--metrics-address", flags->metrics_address, "Where /metrics is served; loopback only");
  app->add_option("--memory-events", flags->memory_events,
                  "File memory.events of the cgroup that trainers run in, to tell a kill for want of memory (default: "
                  "that of this process)");
  app->add_option("--frozen-after", flags->frozen_after_seconds, "Seconds without a rank's beat before it is killed")
      ->check(CLI::Range(0.5, 3600.0));
  app->add_option("--log-level", flags->log_level, "debug, info, warning or error");
}

// A command that names what is missing, once it is known that the worker itself is to run.
absl::Status CheckFlags(const Flags& flags) {
  for (const auto& [name, value] : {std::pair<const char*, const std::string&>{"--coordinator", flags.coordinator},
                                    {"--token-file", flags.token_file},
                                    {"--state-dir", flags.state_dir}}) {
    if (value.empty()) return absl::InvalidArgumentError(std::string("option is required: ") + name);
  }
  if (flags.artifact_roots.empty()) {
    return absl::InvalidArgumentError("option is required: --artifact-root, the folder where jobs keep artifacts");
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace vlm::worker

int main(int argc, char** argv) {
  CLI::App app("Offers this machine's devices to vlm-coordinator and runs ranks of jobs on them.");
  CLI::App* const version = app.add_subcommand("version", "Print the version");
  vlm::worker::Flags flags;
  vlm::worker::AddOptions(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : vlm::worker::kExitUsage;
  }
  if (version->parsed()) {
    std::printf("vlm-worker %s\n", vlm::kVersion);
    return 0;
  }
  vlm::ArmCrashPoints(std::getenv(vlm::kCrashPointsVariable));
  absl::Status status = vlm::worker::CheckFlags(flags);
  const bool usage = !status.ok();
  if (status.ok()) status = vlm::worker::Run(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "vlm-worker: %s\n", vlm::worker::TextOf(status).c_str());
  return usage || absl::IsInvalidArgument(status) ? vlm::worker::kExitUsage : vlm::worker::kExitFailed;
}
