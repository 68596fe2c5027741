// vlmctl: everything a person does. This file gives the command line its world: files, clock, terminal, signals.
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "base/entropy.h"
#include "cli/command_line.h"
#include "rpc/grpc_channel.h"
#include "rpc/token.h"

extern char** environ;

namespace vlm::cli {
namespace {

constexpr size_t kRequestIdBytes = 16;
constexpr int kColumnsUnknown = 80;

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void WriteAll(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) _exit(static_cast<int>(ExitCode::kFailed));  // nobody reads any more
    text.remove_prefix(static_cast<size_t>(written));
  }
}

int Columns() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kColumnsUnknown;
  return size.ws_col;
}

sigset_t LeavingSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

// Takes the signals of the whole process: must run before any other thread starts. A verb that listens leaves by
// itself; otherwise, and the second time, the signal does what it always does.
void StartSignalThread(Interrupt* interrupt) {
  const sigset_t set = LeavingSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread([interrupt, set] {
    while (true) {
      int signal = 0;
      if (sigwait(&set, &signal) != 0) continue;
      if (interrupt->listened() && !interrupt->raised()) {
        interrupt->Raise();
        continue;
      }
      _exit(128 + signal);
    }
  }).detach();
}

absl::StatusOr<int> RunAndWait(const std::string& path, const std::vector<std::string>& arguments) {
  std::vector<char*> argv = {const_cast<char*>(path.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);  // Ctrl-C must end the program too
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, path.c_str(), nullptr, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return ErrnoStatus(error, "cannot start " + path);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return ErrnoStatus(errno, "cannot wait for " + path);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int Main(const std::vector<std::string>& arguments) {
  static Interrupt interrupt;  // the signal thread refers to it to the end
  StartSignalThread(&interrupt);
  TerminalOptions screen;
  screen.out = [](std::string_view text) { WriteAll(STDOUT_FILENO, text); };
  screen.error = [](std::string_view text) { WriteAll(STDERR_FILENO, text); };
  screen.interactive = isatty(STDOUT_FILENO) == 1 && Environment("TERM") != "dumb";
  screen.columns = Columns;
  Terminal terminal(screen);
  World world;
  world.files = PosixFileSystem();
  world.clock = RealClock();
  world.interrupt = &interrupt;
  world.terminal = &terminal;
  world.time_zone = absl::LocalTimeZone();
  std::error_code ignored;  // an empty folder: `chat` will say that vlm-trainer is not there
  world.program_folder = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path().string();
  world.environment_coordinator = Environment("VLM_COORDINATOR");
  world.environment_token_file = Environment("VLM_TOKEN_FILE");
  world.connect = [](const Endpoint& endpoint) {
    rpc::GrpcChannelOptions options;
    options.address = endpoint.address;
    options.metadata = rpc::BearerMetadata(endpoint.token);
    return rpc::NewGrpcChannel(options);
  };
  world.run_program = RunAndWait;
  world.new_request_id = [] { return absl::BytesToHexString(RandomBytes(kRequestIdBytes)); };
  return Run(world, arguments);
}

}  // namespace
}  // namespace vlm::cli

int main(int argc, char** argv) { return vlm::cli::Main(std::vector<std::string>(argv + 1, argv + argc)); }
