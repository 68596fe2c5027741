// Bearer tokens: making them, keeping them in files, and checking them in front of a service.
#ifndef VLM_RPC_TOKEN_H_
#define VLM_RPC_TOKEN_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "rpc/channel.h"
#include "rpc/server.h"

namespace vlm::rpc {

inline constexpr char kAuthorizationKey[] = "authorization";     // users and workers: "Bearer <token>"
inline constexpr char kAttemptTokenKey[] = "vlm-attempt-token";  // trainers
// Set by a worker on calls it passes on for its ranks, so that what belongs to another worker's ranks is refused.
inline constexpr char kNodeIdKey[] = "vlm-node-id";
inline constexpr char kRoleKey[] = "vlm-role";  // set by RequireToken, never by a client

// The node that a call names in kNodeIdKey. INVALID_ARGUMENT, beginning with `call` ("a call about shards"), when it
// names none.
absl::StatusOr<std::string> NamedWorker(const CallContext& context, std::string_view call);

// 32 random bytes as 64 hex digits, from the system's generator. INTERNAL when that fails.
absl::StatusOr<std::string> NewToken();

// Makes a new token and writes it to `path`, mode 0600, durably. ALREADY_EXISTS when the file exists.
absl::StatusOr<std::string> CreateTokenFile(const std::string& path);
// The token in `path`. PERMISSION_DENIED when others than the owner may read or write the file;
// INVALID_ARGUMENT when it does not hold a token.
absl::StatusOr<std::string> ReadTokenFile(const std::string& path);
// ReadTokenFile, or CreateTokenFile when there is none.
absl::StatusOr<std::string> ReadOrCreateTokenFile(const std::string& path);

// Equality in time that depends on the lengths only.
bool EqualSecrets(std::string_view a, std::string_view b);

// {"authorization": "Bearer <token>"}.
Metadata BearerMetadata(std::string_view token);

struct Credential {
  std::string role;  // "user", "worker"
  std::string token;
};
// Who may call what. The longest matching prefix decides.
struct AccessRule {
  std::string method_prefix;  // "/vlm.v1.JobService/"
  std::vector<std::string> roles;
};

// The registry with a check in front of every handler: UNAUTHENTICATED without a known token,
// PERMISSION_DENIED when no rule gives the token's role the method. Handlers find the role in
// CallContext::metadata[kRoleKey].
ServiceRegistry RequireToken(ServiceRegistry registry, std::vector<Credential> credentials,
                             std::vector<AccessRule> rules);

}  // namespace vlm::rpc

#endif  // VLM_RPC_TOKEN_H_
