#include "cli/endpoint.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/address.h"
#include "rpc/token.h"

namespace vlm::cli {
namespace {

constexpr uint64_t kCoordinatorFileBytesMax = 64 << 10;

absl::StatusOr<std::string> AddressFromStateDir(FileSystem* files, const std::string& state_dir) {
  const std::string path = absl::StrCat(state_dir, "/", kCoordinatorFile);
  absl::StatusOr<std::string> text = ReadFile(files, path, kCoordinatorFileBytesMax);
  if (absl::IsNotFound(text.status())) {
    return absl::UnavailableError(absl::StrCat("no coordinator has started in this state folder: no ", path));
  }
  if (!text.ok()) return text.status();
  const nlohmann::json json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("address") || !json["address"].is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected {\"address\": ADDRESS, ...}; is this the coordinator's file? ", path));
  }
  return json["address"].get<std::string>();
}

}  // namespace

absl::StatusOr<Endpoint> ResolveEndpoint(FileSystem* files, const EndpointOptions& options) {
  Endpoint endpoint;
  if (!options.coordinator.empty()) {
    endpoint.address = options.coordinator;
  } else if (!options.state_dir.empty()) {
    VLM_ASSIGN_OR_RETURN(endpoint.address, AddressFromStateDir(files, options.state_dir));
  } else if (!options.environment_coordinator.empty()) {
    endpoint.address = options.environment_coordinator;
  } else {
    return absl::InvalidArgumentError(
        "where is the coordinator? give --state-dir FOLDER, --coordinator ADDRESS, or set VLM_COORDINATOR");
  }
  VLM_RETURN_IF_ERROR(rpc::ParseAddress(endpoint.address).status());

  std::string token_file = options.token_file;
  if (token_file.empty() && !options.state_dir.empty())
    token_file = absl::StrCat(options.state_dir, "/", kUserTokenFile);
  if (token_file.empty()) token_file = options.environment_token_file;
  if (token_file.empty()) {
    return absl::InvalidArgumentError(
        "which token? give --token-file FILE or --state-dir FOLDER, or set VLM_TOKEN_FILE");
  }
  absl::StatusOr<std::string> token = rpc::ReadTokenFile(token_file);
  if (absl::IsNotFound(token.status())) {
    return absl::InvalidArgumentError(absl::StrCat("the token file does not exist: ", token_file));
  }
  if (!token.ok()) return token.status();
  endpoint.token = *std::move(token);
  return endpoint;
}

}  // namespace vlm::cli
