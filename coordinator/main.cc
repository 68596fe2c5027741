// vlm-coordinator: options, signals, exit codes. Everything else is coordinator/server.h.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/crash_point.h"
#include "base/version.h"
#include "coordinator/server.h"
#include "telemetry/log.h"

namespace {

using vlm::telemetry::Log;
using vlm::telemetry::LogLevel;

constexpr int kExitUsage = 64;
constexpr int kExitStore = 74;
constexpr absl::Duration kStopGrace = absl::Milliseconds(500);

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kResourceExhausted:
      return kExitStore;
    default:
      return 1;
  }
}

// The options of `vlm-coordinator`, its defaults and its help.
void AddOptions(vlm::coordinator::ServerOptions* options, std::string* log_level, CLI::App* app) {
  app->add_option("--address", options->address,
                  "Where to serve: 127.0.0.1:PORT, [::1]:PORT or unix:/PATH; port 0: "
                  "the last one of this state folder, or a free one")
      ->capture_default_str();
  app->add_option("--metrics-address", options->metrics_address, "Where to serve /metrics: 127.0.0.1:PORT")
      ->capture_default_str();
  app->add_option("--state-dir", options->state_dir, "Folder of databases, logs and tokens (absolute)");
  app->add_option("--artifact-root", options->artifact_roots,
                  "Folder beneath which jobs may write (absolute; may be repeated). The first one is the default");
  app->add_option("--port-file", options->port_file, "Write the addresses here too, as coordinator.json");
  app->add_option("--log-bytes-per-job", options->log_bytes_per_job_max, "Stored log bytes of one job")
      ->capture_default_str();
  app->add_option("--log-bytes", options->log_bytes_max,
                  "Stored log bytes of all jobs; at the limit, logs of ended attempts go, longest unwritten first")
      ->capture_default_str();
  app->add_option("--free-space-floor", options->free_space_floor_bytes,
                  "Bytes free on the state folder's disk below which no new job is taken; what runs goes on. 0: none")
      ->capture_default_str();
  app->add_option("--ballast-bytes", options->ballast_bytes,
                  "Bytes kept aside on that disk, given up by a start on a full one. 0: none")
      ->capture_default_str();
  app->add_option("--log-level", *log_level, "debug, info, warning or error")->capture_default_str();
}

int Serve(vlm::coordinator::ServerOptions options) {
  if (options.state_dir.empty()) {
    std::fprintf(stderr, "vlm-coordinator: --state-dir is needed\n");
    return kExitUsage;
  }
  // Taken by sigwait below; blocked here so that every thread inherits it.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  options.on_store_failure = [](const absl::Status& status) {
    Log(LogLevel::kError, "the store failed; leaving, so that a new start reads what is on the disk",
        {{"status", status.ToString()}});
    _exit(kExitStore);
  };
  auto server = vlm::coordinator::Server::Create(std::move(options));
  if (!server.ok()) {
    std::fprintf(stderr, "vlm-coordinator: %s\n", std::string(server.status().message()).c_str());
    return ExitCodeOf(server.status());
  }
  std::printf("vlm-coordinator serves at %s, metrics at http://%s/metrics\n", (*server)->address().c_str(),
              (*server)->metrics_address().c_str());
  std::fflush(stdout);
  int taken = 0;
  sigwait(&signals, &taken);
  Log(LogLevel::kInfo, "stopping", {{"signal", std::to_string(taken)}});
  (*server)->Stop(kStopGrace);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Coordinates training jobs: jobs, stages, attempts, workers, checkpoints. Exit codes: 0 stopped, 1 "
      "cannot serve (port or state folder in use), 64 bad option, 74 disk or damaged store.",
      "vlm-coordinator");
  vlm::coordinator::ServerOptions options;
  options.version = vlm::kVersion;
  std::string log_level = "info";
  AddOptions(&options, &log_level, &app);
  CLI::App* version = app.add_subcommand("version", "Print the version");
  app.set_version_flag("--version", std::string("vlm-coordinator ") + vlm::kVersion);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  if (version->parsed()) {
    std::printf("vlm-coordinator %s\n", vlm::kVersion);
    return 0;
  }
  vlm::ArmCrashPoints(std::getenv(vlm::kCrashPointsVariable));
  const auto level = vlm::telemetry::ParseLogLevel(log_level);
  if (!level.ok()) {
    std::fprintf(stderr, "vlm-coordinator: %s\n", std::string(level.status().message()).c_str());
    return kExitUsage;
  }
  vlm::telemetry::StartLog("vlm-coordinator", *level);
  return Serve(std::move(options));
}
