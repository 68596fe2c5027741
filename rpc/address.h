// Which addresses a program may listen on or connect to: this machine only.
#ifndef VLM_RPC_ADDRESS_H_
#define VLM_RPC_ADDRESS_H_

#include <string>
#include <string_view>

#include "base/status.h"

namespace vlm::rpc {

struct Address {
  std::string target;       // as gRPC wants it: "127.0.0.1:7000", "[::1]:7000" or "unix:/path"
  std::string socket_path;  // of a Unix socket, else empty
  int port = 0;             // of a TCP address; 0 lets the system choose (servers only)
};

// Accepts "127.x.y.z:port", "[::1]:port", "localhost:port" and "unix:/absolute/path" (at most 107 bytes of
// path, the kernel's limit). INVALID_ARGUMENT, naming the address, for everything else: any other address
// would carry tokens in clear text over a network.
absl::StatusOr<Address> ParseAddress(std::string_view text);

}  // namespace vlm::rpc

#endif  // VLM_RPC_ADDRESS_H_
