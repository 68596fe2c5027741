#include "coordinator/server_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/entropy.h"

namespace vlm::coordinator {
namespace {

constexpr uint64_t kServerFileBytesMax = 64 << 10;
constexpr size_t kUuidBytes = 16;
constexpr char kUuidKey[] = "uuid";

}  // namespace

absl::Status PrepareStateDir(FileSystem* files, const std::string& state_dir) {
  if (!state_dir.starts_with("/")) {
    return absl::InvalidArgumentError(absl::StrCat("--state-dir must be an absolute path, got: ", state_dir));
  }
  VLM_RETURN_IF_ERROR(MakeDirectories(files, state_dir));
  if (chmod(state_dir.c_str(), 0700) != 0) return ErrnoStatus(errno, "close state folder to others " + state_dir);
  return absl::OkStatus();
}

absl::StatusOr<ServerAddresses> ReadServerFile(FileSystem* files, const std::string& path) {
  VLM_ASSIGN_OR_RETURN(const std::string text, ReadFile(files, path, kServerFileBytesMax));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("address") || !json["address"].is_string() ||
      !json.contains("metrics_address") || !json["metrics_address"].is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("not a coordinator.json: ", path));
  }
  return ServerAddresses{json["address"].get<std::string>(), json["metrics_address"].get<std::string>()};
}

absl::Status WriteServerFile(FileSystem* files, const std::string& path, const std::string& state_dir,
                             const ServerAddresses& addresses, const std::string& version) {
  const nlohmann::json json = {{"address", addresses.address},
                               {"metrics_address", addresses.metrics_address},
                               {"pid", getpid()},
                               {"user_token_file", state_dir + "/user.token"},
                               {"worker_token_file", state_dir + "/worker.token"},
                               {"version", version}};
  return WriteFileDurably(files, path, json.dump(2) + "\n");
}

absl::StatusOr<std::string> StoreUuid(store::MetaStore* store) {
  VLM_ASSIGN_OR_RETURN(const std::optional<std::string> uuid, store->Get(kShellFamily, kUuidKey));
  if (uuid.has_value()) return *uuid;
  const std::string fresh = RandomBytes(kUuidBytes);
  VLM_RETURN_IF_ERROR(store->Commit({{kShellFamily, kUuidKey, fresh}}, store::Durability::kSynced));
  return fresh;
}

}  // namespace vlm::coordinator
