// Where the coordinator is and which token opens it.
#ifndef VLM_CLI_ENDPOINT_H_
#define VLM_CLI_ENDPOINT_H_

#include <string>

#include "base/file_system.h"
#include "base/status.h"

namespace vlm::cli {

// In the coordinator's state folder: {"address": ADDRESS, "metrics_address": ADDRESS, ...}, and the users' token.
inline constexpr char kCoordinatorFile[] = "coordinator.json";
inline constexpr char kUserTokenFile[] = "user.token";

// What a person gave, most telling first: an option beats the state folder, the folder beats the environment.
struct EndpointOptions {
  std::string coordinator;              // --coordinator
  std::string token_file;               // --token-file
  std::string state_dir;                // --state-dir
  std::string environment_coordinator;  // VLM_COORDINATOR
  std::string environment_token_file;   // VLM_TOKEN_FILE
};

struct Endpoint {
  std::string address;
  std::string token;
  friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

// Reads the files each time: a restarted coordinator may have another port. INVALID_ARGUMENT when nothing says where
// the coordinator is, or for an address of another machine; UNAVAILABLE when the state folder names none yet;
// PERMISSION_DENIED and INVALID_ARGUMENT of the token file, naming it.
absl::StatusOr<Endpoint> ResolveEndpoint(FileSystem* files, const EndpointOptions& options);

}  // namespace vlm::cli

#endif  // VLM_CLI_ENDPOINT_H_
