#include "rpc/token.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file_system.h"

namespace vlm::rpc {
namespace {

constexpr size_t kTokenBytes = 32;
constexpr size_t kTokenDigits = 2 * kTokenBytes;
constexpr std::string_view kBearer = "Bearer ";

bool IsToken(std::string_view text) {
  return text.size() == kTokenDigits &&
         std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status WriteAndSync(int file, const std::string& path, const std::string& text) {
  if (write(file, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus(errno, "write token file " + path);
  }
  if (fsync(file) != 0) return ErrnoStatus(errno, "sync token file " + path);
  return absl::OkStatus();
}

// The checks in front of a registry's handlers.
class Gate {
 public:
  Gate(std::vector<Credential> credentials, std::vector<AccessRule> rules)
      : credentials_(std::move(credentials)), rules_(std::move(rules)) {}

  // The role that may call `method`.
  absl::StatusOr<std::string> Admit(const CallContext& context, std::string_view method) const {
    const auto sent = context.metadata.find(kAuthorizationKey);
    if (sent == context.metadata.end()) return absl::UnauthenticatedError("no token was sent with the call");
    std::string_view token = sent->second;
    if (!token.starts_with(kBearer)) return absl::UnauthenticatedError("authorization is not a bearer token");
    token.remove_prefix(kBearer.size());
    std::optional<std::string> role;
    for (const Credential& credential : credentials_) {  // all of them, whichever matches: equal time
      if (EqualSecrets(credential.token, token)) role = credential.role;
    }
    if (!role) return absl::UnauthenticatedError("the token is not known to this service; is it an old token file?");
    const AccessRule* rule = nullptr;
    for (const AccessRule& candidate : rules_) {
      if (!method.starts_with(candidate.method_prefix)) continue;
      if (rule == nullptr || candidate.method_prefix.size() > rule->method_prefix.size()) rule = &candidate;
    }
    if (rule == nullptr || std::ranges::find(rule->roles, *role) == rule->roles.end()) {
      return absl::PermissionDeniedError("a " + *role + " token may not call " + std::string(method));
    }
    return *role;
  }

 private:
  const std::vector<Credential> credentials_;
  const std::vector<AccessRule> rules_;
};

class SilentReceiver final : public StreamReceiver {
 public:
  void OnMessage(std::string) override {}
  void OnClosed(absl::Status) override {}
};

}  // namespace

absl::StatusOr<std::string> NewToken() {
  std::array<unsigned char, kTokenBytes> bytes;
  if (RAND_bytes(bytes.data(), bytes.size()) != 1) {
    return absl::InternalError("the system's random generator gave no bytes for a token");
  }
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string token;
  for (const unsigned char byte : bytes) {
    token += kDigits[byte >> 4];
    token += kDigits[byte & 15];
  }
  return token;
}

absl::StatusOr<std::string> CreateTokenFile(const std::string& path) {
  VLM_ASSIGN_OR_RETURN(const std::string token, NewToken());
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return ErrnoStatus(errno, "create token file " + path);
  const absl::Status written = WriteAndSync(file, path, token + "\n");
  close(file);
  if (!written.ok()) {
    unlink(path.c_str());
    return written;
  }
  VLM_RETURN_IF_ERROR(PosixFileSystem()->SyncDirectory(ParentOf(path)));
  return token;
}

absl::StatusOr<std::string> ReadTokenFile(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return ErrnoStatus(errno, "open token file " + path);
  struct stat info{};
  std::array<char, kTokenDigits + 2> buffer{};
  const bool known = fstat(file, &info) == 0;
  const ssize_t bytes = read(file, buffer.data(), buffer.size());
  close(file);
  if (!known || bytes < 0) return absl::InternalError("token file cannot be read: " + path);
  if ((info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError("token file is open to other users; run chmod 600 " + path);
  }
  std::string_view text(buffer.data(), static_cast<size_t>(bytes));
  if (text.ends_with('\n')) text.remove_suffix(1);
  if (!IsToken(text)) {
    return absl::InvalidArgumentError("token file does not hold 64 lower-case hex digits: " + path);
  }
  return std::string(text);
}

absl::StatusOr<std::string> ReadOrCreateTokenFile(const std::string& path) {
  absl::StatusOr<std::string> token = ReadTokenFile(path);
  if (!absl::IsNotFound(token.status())) return token;
  return CreateTokenFile(path);
}

bool EqualSecrets(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Metadata BearerMetadata(std::string_view token) {
  return {{kAuthorizationKey, std::string(kBearer) + std::string(token)}};
}

absl::StatusOr<std::string> NamedWorker(const CallContext& context, std::string_view call) {
  const auto node = context.metadata.find(kNodeIdKey);
  if (node != context.metadata.end() && !node->second.empty()) return node->second;
  return absl::InvalidArgumentError(
      absl::StrCat(absl::string_view(call.data(), call.size()), " names its worker in metadata ", kNodeIdKey));
}

ServiceRegistry RequireToken(ServiceRegistry registry, std::vector<Credential> credentials,
                             std::vector<AccessRule> rules) {
  const auto gate = std::make_shared<const Gate>(std::move(credentials), std::move(rules));
  for (auto& [method, handler] : registry.unary) {
    handler = [gate, method = method, inner = std::move(handler)](const CallContext& context, std::string request,
                                                                  Respond respond) {
      absl::StatusOr<std::string> role = gate->Admit(context, method);
      if (!role.ok()) {
        respond(role.status());
        return;
      }
      CallContext admitted = context;
      admitted.metadata[kRoleKey] = *std::move(role);
      inner(admitted, std::move(request), std::move(respond));
    };
  }
  for (auto& [method, handler] : registry.streams) {
    handler = [gate, method = method, inner = std::move(handler)](
                  const CallContext& context, std::shared_ptr<Stream> stream) -> std::shared_ptr<StreamReceiver> {
      absl::StatusOr<std::string> role = gate->Admit(context, method);
      if (!role.ok()) {
        stream->Close(role.status());
        return std::make_shared<SilentReceiver>();
      }
      CallContext admitted = context;
      admitted.metadata[kRoleKey] = *std::move(role);
      return inner(admitted, std::move(stream));
    };
  }
  return registry;
}

}  // namespace vlm::rpc
