#include "rpc/address.h"

#include <sys/un.h>

#include <charconv>
#include <optional>

namespace vlm::rpc {
namespace {

constexpr std::string_view kUnixPrefix = "unix:";
constexpr size_t kSocketPathBytesMax = sizeof(sockaddr_un{}.sun_path) - 1;

absl::Status Refused(std::string_view text, std::string_view why) {
  return absl::InvalidArgumentError("address is not usable: " + std::string(why) + ": '" + std::string(text) + "'");
}

std::optional<int> ParsePort(std::string_view digits) {
  int port = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || end != digits.data() + digits.size() || port < 0 || port > 65535) return std::nullopt;
  return port;
}

// "127.x.y.z", each part 0 to 255.
bool IsLoopbackIpv4(std::string_view host) {
  int parts = 0;
  while (true) {
    const size_t dot = host.find('.');
    const std::optional<int> part = ParsePort(host.substr(0, dot));
    if (!part || *part > 255 || (parts == 0 && *part != 127)) return false;
    ++parts;
    if (dot == std::string_view::npos) return parts == 4;
    host.remove_prefix(dot + 1);
  }
}

}  // namespace

absl::StatusOr<Address> ParseAddress(std::string_view text) {
  Address address;
  if (text.starts_with(kUnixPrefix)) {
    const std::string_view path = text.substr(kUnixPrefix.size());
    if (path.empty() || path.front() != '/') return Refused(text, "a Unix socket needs an absolute path");
    if (path.size() > kSocketPathBytesMax) {
      return Refused(text, "a socket path has at most " + std::to_string(kSocketPathBytesMax) + " bytes");
    }
    address.target = std::string(text);
    address.socket_path = std::string(path);
    return address;
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return Refused(text, "expected host:port or unix:/path");
  const std::string_view host = text.substr(0, colon);
  const std::optional<int> port = ParsePort(text.substr(colon + 1));
  if (!port) return Refused(text, "the port is not a number from 0 to 65535");
  if (host != "localhost" && host != "[::1]" && !IsLoopbackIpv4(host)) {
    return Refused(text, "only loopback addresses (127.0.0.1, [::1], localhost) and Unix sockets are served");
  }
  // A name is resolved here, so that client and server never pick different families.
  address.target = (host == "localhost" ? "127.0.0.1" : std::string(host)) + ":" + std::to_string(*port);
  address.port = *port;
  return address;
}

}  // namespace vlm::rpc
