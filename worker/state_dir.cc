#include "worker/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/file_system.h"
#include "rpc/token.h"

namespace vlm::worker {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kFormat = 1;
constexpr uint64_t kRowBytesMax = 4u << 20;
constexpr std::string_view kResults = "/results";
constexpr std::string_view kProcesses = "/processes";
constexpr std::string_view kCalls = "/calls";

absl::Status Damaged(const std::string& path, std::string_view why) {
  return absl::DataLossError("state file of the worker is damaged (" + std::string(why) +
                             "); move it away to go on without it: " + path);
}

absl::StatusOr<Json> ReadJson(const std::string& path) {
  VLM_ASSIGN_OR_RETURN(const std::string text, ReadFile(PosixFileSystem(), path, kRowBytesMax));
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Damaged(path, "not a JSON object");
  return json;
}

// The text of `key`; empty when it is missing or no text.
std::string TextOf(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// The number of `key`, at most `most`; nothing when it is missing or no such number.
std::optional<uint64_t> NumberOf(const Json& json, const char* key, uint64_t most) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number_unsigned() || found->get<uint64_t>() > most) return std::nullopt;
  return found->get<uint64_t>();
}

std::string ResultName(const std::string& attempt_id, int32_t rank) {
  std::string name = attempt_id + "-r" + std::to_string(rank);
  std::replace(name.begin(), name.end(), '/', '-');
  return name;
}

// A row whose file name must not depend on what is in a message.
bool IsRow(const std::string& name) { return !name.starts_with('.') && name.find(".tmp") == std::string::npos; }

absl::StatusOr<std::vector<std::string>> Rows(const std::string& folder) {
  VLM_ASSIGN_OR_RETURN(std::vector<std::string> names, PosixFileSystem()->List(folder));
  std::erase_if(names, [](const std::string& name) { return !IsRow(name); });
  return names;
}

// What a worker that was killed was about to write.
absl::Status RemoveUnfinished(const std::string& folder) {
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> names, PosixFileSystem()->List(folder));
  for (const std::string& name : names) {
    if (!IsRow(name)) VLM_RETURN_IF_ERROR(PosixFileSystem()->Remove(folder + "/" + name));
  }
  return absl::OkStatus();
}

absl::Status RemoveRow(const std::string& path) {
  absl::Status removed = PosixFileSystem()->Remove(path);
  return absl::IsNotFound(removed) ? absl::OkStatus() : removed;
}

}  // namespace

StateDir::StateDir(std::string path) : path_(std::move(path)) {}

StateDir::~StateDir() {
  if (lock_ >= 0) close(lock_);
}

absl::StatusOr<std::unique_ptr<StateDir>> StateDir::Open(const std::string& path, const std::string& hostname) {
  std::unique_ptr<StateDir> state(new StateDir(path));
  VLM_RETURN_IF_ERROR(MakeDirectories(PosixFileSystem(), path));
  if (chmod(path.c_str(), 0700) != 0) return ErrnoStatus(errno, "make state folder private: " + path);
  for (const std::string_view folder : {kResults, kProcesses, kCalls}) {
    VLM_RETURN_IF_ERROR(MakeDirectories(PosixFileSystem(), path + std::string(folder)));
  }
  VLM_RETURN_IF_ERROR(MakeDirectories(PosixFileSystem(), state->run_root()));
  VLM_RETURN_IF_ERROR(MakeDirectories(PosixFileSystem(), state->log_root()));
  VLM_RETURN_IF_ERROR(state->Lock());
  for (const std::string_view folder : {kResults, kProcesses, kCalls}) {
    VLM_RETURN_IF_ERROR(RemoveUnfinished(path + std::string(folder)));
  }
  VLM_RETURN_IF_ERROR(state->LoadIdentity(hostname));
  return state;
}

absl::Status StateDir::Lock() {
  const std::string path = path_ + "/LOCK";
  lock_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) return ErrnoStatus(errno, "open " + path);
  std::array<char, 32> text{};
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    [[maybe_unused]] const ssize_t bytes = pread(lock_, text.data(), text.size() - 1, 0);
    return absl::AlreadyExistsError("another worker uses the state folder " + path_ + ", process " +
                                    std::string(text.data()) + "; give each worker its own --state-dir");
  }
  const std::string pid = std::to_string(getpid());
  if (ftruncate(lock_, 0) != 0 || pwrite(lock_, pid.data(), pid.size(), 0) < 0)
    return ErrnoStatus(errno, "write " + path);
  return absl::OkStatus();
}

absl::Status StateDir::LoadIdentity(const std::string& hostname) {
  const std::string path = path_ + "/worker.json";
  const absl::StatusOr<Json> stored = ReadJson(path);
  if (absl::IsNotFound(stored.status())) {
    VLM_ASSIGN_OR_RETURN(const std::string random, rpc::NewToken());
    state_uuid_ = random.substr(0, 32);
    node_id_ = (hostname.empty() ? std::string("node") : hostname) + "-" + random.substr(32, 6);
  } else {
    VLM_RETURN_IF_ERROR(stored.status());
    if (NumberOf(*stored, "format", kFormat) != kFormat) return Damaged(path, "format is not 1");
    node_id_ = TextOf(*stored, "node_id");
    state_uuid_ = TextOf(*stored, "state_uuid");
    if (node_id_.empty() || state_uuid_.empty()) return Damaged(path, "node_id or state_uuid is missing");
    const std::optional<uint64_t> incarnation = NumberOf(*stored, "incarnation", UINT64_MAX - 1);
    const std::optional<uint64_t> epoch = NumberOf(*stored, "coordinator_epoch", UINT64_MAX);
    // Begun again at 0 they would make the coordinator take this worker for an older process of itself.
    if (!incarnation.has_value() || !epoch.has_value()) {
      return Damaged(path, "incarnation or coordinator_epoch is no number");
    }
    incarnation_ = *incarnation;
    epoch_ = *epoch;
  }
  ++incarnation_;
  return SaveIdentity();
}

absl::Status StateDir::SaveIdentity() const {
  const Json json = {{"format", kFormat},
                     {"node_id", node_id_},
                     {"state_uuid", state_uuid_},
                     {"incarnation", incarnation_},
                     {"coordinator_epoch", epoch_}};
  return WriteFileDurably(PosixFileSystem(), path_ + "/worker.json", json.dump(2) + "\n");
}

absl::Status StateDir::StoreEpoch(uint64_t epoch) {
  epoch_ = epoch;
  return SaveIdentity();
}

absl::StatusOr<std::vector<v1::RankResult>> StateDir::LoadResults() const {
  std::vector<v1::RankResult> results;
  const std::string folder = path_ + std::string(kResults);
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> names, Rows(folder));
  for (const std::string& name : names) {
    const std::string path = folder + "/" + name;
    VLM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(PosixFileSystem(), path, kRowBytesMax));
    v1::RankResult result;
    if (!result.ParseFromString(bytes) || result.attempt_id().empty()) return Damaged(path, "not a rank's result");
    results.push_back(std::move(result));
  }
  return results;
}

absl::Status StateDir::StoreResult(const v1::RankResult& result) {
  return WriteFileDurably(PosixFileSystem(),
                          path_ + std::string(kResults) + "/" + ResultName(result.attempt_id(), result.rank()),
                          result.SerializeAsString());
}

absl::Status StateDir::RemoveResult(const RankKey& key) {
  return RemoveRow(path_ + std::string(kResults) + "/" + ResultName(key.attempt_id, key.rank));
}

absl::StatusOr<std::vector<ProcessName>> StateDir::LoadProcesses() {
  std::vector<ProcessName> processes;
  const std::string folder = path_ + std::string(kProcesses);
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> names, Rows(folder));
  for (const std::string& name : names) {
    const std::string path = folder + "/" + name;
    const absl::StatusOr<Json> json = ReadJson(path);
    VLM_RETURN_IF_ERROR(json.status());
    if (TextOf(*json, "boot_id") != ReadBootId()) {  // the machine has restarted: the process is gone
      VLM_RETURN_IF_ERROR(RemoveRow(path));
      continue;
    }
    const std::optional<uint64_t> pid = NumberOf(*json, "pid", INT_MAX);
    const std::optional<uint64_t> start_ticks = NumberOf(*json, "start_ticks", UINT64_MAX);
    if (pid.value_or(0) == 0 || !start_ticks.has_value()) return Damaged(path, "not a process");
    processes.push_back({.pid = static_cast<int>(*pid), .start_ticks = *start_ticks});
  }
  return processes;
}

absl::Status StateDir::StoreProcess(const ProcessName& name) {
  const Json json = {{"pid", name.pid}, {"start_ticks", name.start_ticks}, {"boot_id", ReadBootId()}};
  return WriteFileDurably(PosixFileSystem(), path_ + std::string(kProcesses) + "/" + std::to_string(name.pid),
                          json.dump());
}

absl::Status StateDir::RemoveProcess(int pid) {
  return RemoveRow(path_ + std::string(kProcesses) + "/" + std::to_string(pid));
}

absl::StatusOr<std::vector<StoredCall>> StateDir::LoadCalls() const {
  std::vector<StoredCall> calls;
  const std::string folder = path_ + std::string(kCalls);
  VLM_ASSIGN_OR_RETURN(const std::vector<std::string> names, Rows(folder));
  for (const std::string& name : names) {
    const std::string path = folder + "/" + name;
    VLM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(PosixFileSystem(), path, kRowBytesMax));
    const size_t line = bytes.find('\n');  // method, newline, request
    if (line == std::string::npos || bytes.front() != '/') return Damaged(path, "not a stored call");
    calls.push_back({.name = name, .method = bytes.substr(0, line), .request = bytes.substr(line + 1)});
  }
  return calls;
}

absl::Status StateDir::StoreCall(const StoredCall& call) {
  return WriteFileDurably(PosixFileSystem(), path_ + std::string(kCalls) + "/" + call.name,
                          call.method + "\n" + call.request);
}

absl::Status StateDir::RemoveCall(const std::string& name) {
  return RemoveRow(path_ + std::string(kCalls) + "/" + name);
}

std::string ReadBootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  std::getline(file, text);
  return text;
}

}  // namespace vlm::worker
